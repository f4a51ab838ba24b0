"""What the packaged tower is, without loading it. Free of torch."""

from __future__ import annotations

import hashlib

# Of the classifier's probabilities at this temperature, so many classes are mixed. Sharper or fewer mixes lose
# the little that the class names say of weather and light.
TEMPERATURE = 2.0
CLASSES_MIXED = 50
EMBEDDING_DIM = 384
INPUT_SIZE = (224, 224)
_WEIGHTS = ("579344248a93e230", "53aa51172d142c89")
_VERSION = 1  # raise whenever preprocessing or mixing gives other answers

_PARTS = ("packaged", _VERSION, _WEIGHTS, TEMPERATURE, CLASSES_MIXED, INPUT_SIZE)
TOWER_ID = hashlib.sha256(repr(_PARTS).encode()).hexdigest()[:16]
