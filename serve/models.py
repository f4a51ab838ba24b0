"""What goes over the wire: requests, which reject unknown keys, and answers.

Times are nanoseconds since 1970, distances metres, boxes pixels. Nothing here is a path, a URL to open or SQL.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, model_validator

MAX_TOP = 100
MAX_QUERY_CHARS = 500
MAX_SET_SCENES = 10_000
_MAX_TERMS = 50
# Lance takes the least number of 64 bits for a float.
Nanoseconds = Annotated[int, Field(gt=-(2**63), lt=2**63)]

SceneId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", examples=["0f3a9c6d2b7e41588c1d5e90aa37f264"])]
SetId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$", examples=["5f1c22d0c3a94b7e"])]
# Where a page ended, as of `serve.cursors`: table version, model, place, digest of what was asked; version of the
# detections that were a filter; the vector of a text or picture, 2,048 characters for 384 numbers. Carries no rights.
_CURSOR = r"^v[0-9]{1,12}\.[0-9a-f]{16}\.[0-9]{1,5}\.[0-9a-f]{16}(\.d[0-9]{1,12})?(\.q[A-Za-z0-9_-]+)?$"
Cursor = Annotated[str, Field(pattern=_CURSOR, max_length=32_768)]
TableTag = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", examples=["run-20260301T020000Z-1a2b3c"])]
Word = Annotated[str, Field(min_length=1, max_length=200)]
ObjectKind = Literal["rider", "motorcycle", "bicycle", "pedestrian", "roadwork", "large", "vehicle"]
Words = Annotated[list[Word], Field(max_length=_MAX_TERMS)]


class Request(BaseModel):
    """A body: unknown keys are refused, and a truth value is no number."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _no_truths(cls, values: Any) -> Any:
        """No key takes one; pydantic would read true as the number 1."""
        if isinstance(values, dict) and (truths := [name for name, value in values.items() if isinstance(value, bool)]):
            raise ValueError(f"{', '.join(map(str, truths))}: expected no true or false")
        return values


class Answer(BaseModel):
    """What comes back."""

    model_config = ConfigDict(frozen=True)


class TextQuery(Request):
    """Words, in the tower's own language, which is English for the packaged one."""

    kind: Literal["text"]
    text: Annotated[str, Field(min_length=1, max_length=MAX_QUERY_CHARS, examples=["pedestrian crossing at night"])]


class ImageQuery(Request):
    """A picture, as base64 of a JPEG, PNG, TIFF, WebP, BMP or PPM file."""

    kind: Literal["image"]
    image_base64: Annotated[Base64Bytes, Field(max_length=8 * 1024**2)]


class SceneQuery(Request):
    """More like a scene, which is not among its own results."""

    kind: Literal["scene"]
    scene_id: SceneId


Query = Annotated[TextQuery | ImageQuery | SceneQuery, Field(discriminator="kind")]


class DetectedObjects(Request):
    """One infrared picture of the scene shows at least `count` objects of a class with at least this score."""

    label: Word
    min_score: float = Field(default=0.5, ge=0, le=1)
    count: int = Field(default=1, ge=1, le=1000)


class Filters(Request):
    """All conditions must hold; what is not given does not count.

    A scene whose risk, hardness or time to collision is unknown passes no bound on it. A lower bound above its upper
    one lets nothing pass, and the answer says so.
    """

    tags: Words = Field(default=[], description="all of these are present", examples=[["night", "pedestrian"]])
    any_tags: Words = Field(default=[], description="at least one is present")
    without_tags: Words = Field(default=[], description="none is present")
    min_risk: float | None = Field(default=None, ge=0, le=1)
    max_risk: float | None = Field(default=None, ge=0, le=1)
    min_hardness: float | None = Field(default=None, ge=0, le=1)
    max_hardness: float | None = Field(default=None, ge=0, le=1)
    max_ttc_s: float | None = Field(default=None, ge=0, le=1000, description="least time to collision at most this")
    from_ns: Nanoseconds | None = Field(default=None, description="the scene ends after this")
    to_ns: Nanoseconds | None = Field(default=None, description="the scene begins before this")
    sources: Words = Field(default=[], description="data sets or fleets")
    logs: Words = Field(default=[], description="log ids")
    cameras: Words = Field(default=[], description="at least one of these saw it")
    objects: list[ObjectKind] = Field(
        default=[], max_length=8, description="an annotated or tracked object of each kind is near the ego"
    )
    detected: list[DetectedObjects] = Field(
        default=[],
        max_length=8,
        description="a detector found each of these (jobs/predict_infrared.py --store), by now, whatever `as_of` says",
    )
    detector: Word | None = Field(
        default=None, description="of `detected`: the id of the detector or its beginning; the newest, if not given"
    )


class Weights(Request):
    """How much each part counts in the score, as shares of their sum. Similarity counts where there is a query.

    All zero means similarity with a query, and hardness without.
    """

    similarity: float = Field(default=1.0, ge=0, le=1)
    hardness: float = Field(default=0.0, ge=0, le=1)
    risk: float = Field(default=0.0, ge=0, le=1)
    rarity: float = Field(default=0.0, ge=0, le=1)


class SearchRequest(Request):
    """A search, or without `query` a list by the other weights, the hardest first.

    cursor: `next_cursor` of the page before, with all else as it was: it pins the versions of the tables, the model and
    the vector of the query, so that what arrives meanwhile moves nothing. as_of: the answer as after an earlier run,
    by its table tag.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "query": {"kind": "text", "text": "pedestrian crossing at night in rain"},
                    "where": {"tags": ["night"], "min_risk": 0.2},
                    "weights": {"similarity": 0.7, "hardness": 0.3},
                    "top": 24,
                }
            ]
        },
    )

    query: Query | None = None
    where: Filters = Filters()
    weights: Weights = Weights()
    top: int = Field(default=24, ge=1, le=MAX_TOP)
    cursor: Cursor | None = None
    as_of: TableTag | None = None


class ScorePart(Answer):
    """contribution = weight * value, with value 0 where it is unknown; the total is the sum of contributions."""

    name: Literal["similarity", "hardness", "risk", "rarity"]
    value: float | None
    weight: float
    contribution: float


class HardnessPart(Answer):
    """rank: share of `ranked_among` scenes below this one, in [0, 1]. value: in its own unit."""

    name: Literal["risk", "ambiguity", "rarity"]
    rank: float | None
    value: float | None


class Score(Answer):
    """total: by which results are ordered. why: one sentence on what makes the scene hard."""

    total: float
    parts: list[ScorePart]
    hardness_parts: list[HardnessPart]
    ranked_among: int | None
    why: str


class Scene(Answer):
    """A scene as lists show it. cover: path of its most telling small picture, or None where it has none."""

    scene_id: str
    source: str
    log_id: str
    t_start_ns: int
    t_end_ns: int
    cameras: list[str]
    num_pictures: int
    flags: list[str]
    description: str
    truth_tags: list[str]
    tags: list[str]
    tag_probabilities: dict[str, float]
    risk: float | None
    risk_source: Literal["head", "tracks", "ego"] | None
    min_ttc_s: float | None
    hardness: float | None
    cover: str | None


class Hit(Answer):
    """A result."""

    scene: Scene
    score: Score


class SearchAnswer(Answer):
    """A page of results, best first.

    total: scenes that pass the filters, paged to or not; with a query, those that have pictures to compare.
    next_cursor: None at the end. version: of the table.
    """

    hits: list[Hit]
    next_cursor: str | None
    total: int
    version: int
    model_id: str
    notes: list[str] = []


class FrameInfo(Answer):
    """A picture of a scene: the k-th of its camera in time; url: where to get it."""

    camera: str
    k: int
    t_ns: int
    width: int | None
    height: int | None
    url: str


class FrameList(Answer):
    """kind: "thumbnail", of the store, or "original", of the log. notes: why there are none."""

    kind: Literal["thumbnail", "original"]
    frames: list[FrameInfo]
    notes: list[str] = []


class PlottedTrack(Answer):
    """A road user from above, in the ego's frame at its first moment. steps: (x forward m, y left m, yaw rad)."""

    kind: str
    is_worst: bool
    length_m: float
    width_m: float
    steps: list[tuple[float, float, float]]


class BirdsEye(Answer):
    """Where everybody went; steps are thinned, evenly from each one's first to last moment."""

    ego: PlottedTrack
    agents: list[PlottedTrack]


class AgentRisk(Answer):
    """A dangerous agent. t_ns: its worst moment. min_ttc_s: None where the two never meet."""

    track_id: str
    category: str
    hazard: float
    min_ttc_s: float | None
    min_dce_m: float | None
    t_ns: int


class SceneDetail(Answer):
    """All that the store knows of a scene. score: by hardness."""

    scene: Scene
    score: Score
    frames: list[FrameInfo]
    birds_eye: BirdsEye | None
    agents: list[AgentRisk]
    physics_risk: float | None
    physics_source: str | None
    max_braking_mps2: float | None
    ambiguity_m: float | None
    model_id: str
    run_id: str
    version: int
    has_embedding: bool


class Moment(Answer):
    """A scene of the same log: risk over time."""

    scene_id: str
    t_start_ns: int
    t_end_ns: int
    risk: float | None
    hardness: float | None
    tags: list[str]


class Timeline(Answer):
    """The scenes of a log in order of time, around one of them."""

    source: str
    log_id: str
    moments: list[Moment]


class TagCount(Answer):
    """count: scenes that have the tag among those that pass the filters."""

    name: str
    count: int


class TagList(Answer):
    """Every tag that a scene of this store may carry."""

    tags: list[TagCount]
    total: int
    version: int


class LogCount(Answer):
    """A log and how many of its scenes pass."""

    source: str
    log_id: str
    count: int
    from_ns: int
    to_ns: int
    max_risk: float | None


class LogList(Answer):
    """is_cut: there are more logs than are listed."""

    logs: list[LogCount]
    is_cut: bool


class Run(Answer):
    """A run of mining. tag: what `as_of` may name, or None where its version is gone. figures: its counts."""

    run_id: str
    model_id: str
    status: str
    started_ns: int
    ended_ns: int | None
    table_version: int | None
    tag: str | None
    figures: dict[str, Any]
    vector_index: dict[str, Any] | None


class RunList(Answer):
    """Newest first."""

    runs: list[Run]


class Overview(Answer):
    """What a page needs before the first search. risk_histogram: scenes in 20 equal bins of [0, 1].

    detected_classes: of the newest detector that looked at the store's scenes; none where none did.
    """

    num_scenes: int
    num_logs: int
    sources: list[str]
    cameras: list[str]
    from_ns: int | None
    to_ns: int | None
    risk_histogram: list[int]
    num_without_risk: int
    version: int
    model_id: str
    tower: str
    detected_classes: list[str]
    has_detector: bool
    has_originals: bool


class DetectorInfo(Answer):
    """The detector that answers now."""

    detector_id: str
    classes: list[str]
    height: int
    width: int


class Detection(Answer):
    """box: left, top, right, bottom in pixels of the upright picture."""

    box: tuple[float, float, float, float]
    score: float
    label: str


class PictureProblem(Answer):
    """Why a picture was not looked at."""

    code: str
    detail: str


class PictureDetections(Answer):
    """One picture. width, height: of the upright picture. preview_jpeg: base64, where it was asked for."""

    name: str
    width: int | None
    height: int | None
    bits: int | None
    is_coloured: bool
    detections: list[Detection]
    notes: list[str]
    problem: PictureProblem | None
    preview_jpeg: str | None = None


class DetectAnswer(Answer):
    """In the order of the upload."""

    detector_id: str
    classes: list[str]
    pictures: list[PictureDetections]


class SaveSet(Request):
    """Scenes worth keeping. search: what found them, kept for the record and never run."""

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$", examples=["wet nights"])]
    note: Annotated[str, Field(max_length=2000)] = ""
    scene_ids: Annotated[list[SceneId], Field(min_length=1, max_length=MAX_SET_SCENES)]
    search: SearchRequest | None = None


class SetSummary(Answer):
    """A saved set."""

    set_id: str
    name: str
    note: str
    created_ns: int
    created_by: str
    num_scenes: int
    model_id: str
    version: int


class SetDetail(SetSummary):
    """With its scenes, in the order in which they were saved. as_of: a tag of their version, or None."""

    scene_ids: list[str]
    search: dict[str, Any] | None
    as_of: str | None


class SetList(Answer):
    """Newest first."""

    sets: list[SetSummary]


class Me(Answer):
    """What a token may do."""

    name: str
    scopes: list[str]
    expires: str | None


class Health(Answer):
    """status: "ok", or what is amiss."""

    status: str
    checks: dict[str, str] = {}


class Problem(BaseModel):
    """An error, as RFC 9457 has it. code: short and stable. request_id: what the audit log knows the request by."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[dict[str, Any]] | None = None
