"""The tags that scenes are given, and the words that a tower knows them by. Free of torch."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from system.config import FrozenConfig
from system.errors import ConfigError

DEFAULT_PATH = Path(__file__).with_name("taxonomy.toml")
MAX_FILE_BYTES = 1 << 20


class Calibration(FrozenConfig):
    """A tag's logit from its contrast: scale * (contrast - midpoint)."""

    midpoint: float = Field(ge=-2, le=2)
    scale: float = Field(gt=0, le=10_000)


class Tag(FrozenConfig):
    """One tag.

    name: lower case, digits and underscores.
    prompts: phrases that describe a picture with the tag; their embeddings are averaged.
    opposites: phrases for the same kind of picture without it. The tag's logit is the contrast of the two.
    seen_in: "most" of a scene's pictures show it (night, rain), or "some" do (a cyclist in one camera).
    needs_motion: whether only a sequence of pictures can show it; of a single moment it is then never said.
    calibration: tower name -> its logit's line, for towers whose contrasts were measured.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    prompts: tuple[str, ...] = Field(min_length=1, max_length=64)
    opposites: tuple[str, ...] = Field(min_length=1, max_length=64)
    seen_in: Literal["most", "some"]
    needs_motion: bool = False
    calibration: dict[str, Calibration] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_words(self) -> Tag:
        if not all(words.strip() for words in self.prompts + self.opposites):
            raise ValueError(f"tag {self.name}: a prompt is empty")
        return self


class Taxonomy(FrozenConfig):
    """An ordered set of tags; column k of the tag probabilities belongs to tag k."""

    tags: tuple[Tag, ...] = Field(min_length=1, max_length=1000)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(tag.name for tag in self.tags)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Taxonomy:
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise ValueError(f"tags named twice: {', '.join(repeated)}")
        return self


def load_taxonomy(path: str | Path | None = None) -> Taxonomy:
    """Read a taxonomy; the 20 tags that Nightminer comes with where `path` is None.

    The file is TOML with one `[[tags]]` table for each tag, keys as in `Tag`.

    Raises:
        ConfigError: the file is missing, no TOML, too large, or a tag is wrong: which, and what was expected.
    """
    file = DEFAULT_PATH if path is None else Path(path)
    try:
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ConfigError(f"taxonomy {file}: {size} bytes, expected at most {MAX_FILE_BYTES}")
        values = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"taxonomy {file}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"taxonomy {file}: expected TOML in UTF-8: {error}") from error
    return Taxonomy.parse(values, where=f"taxonomy {file}")
