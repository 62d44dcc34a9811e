"""Settings of loading: what a batch holds and how it is made. No heavy imports, for the command line."""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from diptych.config.schema import Section
from diptych.data.mixture_config import EVALUATED_AS, Examples, MixtureConfig, SourceConfig
from diptych.data.tiling_config import TilingConfig
from diptych.data.video_config import VideoConfig

__all__ = ["EVALUATED_AS", "DataConfig", "Examples", "MixtureConfig", "SourceConfig"]


def parse_colour(text: str) -> tuple[int, int, int]:
    """Return (red, green, blue), 0..255 each, of `white`, `black`, `grey` or `#rrggbb`.

    Raises:
        ValueError: anything else; the message says what was expected.
    """
    named = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128)}
    if text in named:
        return named[text]
    digits = text.removeprefix("#")
    if not text.startswith("#") or len(digits) != 6 or set(digits.lower()) - set("0123456789abcdef"):
        raise ValueError(f"expected 'white', 'black', 'grey' or '#rrggbb', got '{text}'")
    return int(digits[0:2], 16), int(digits[2:4], 16), int(digits[4:6], 16)


class ImageConfig(Section):
    """How a picture becomes `size` x `size` pixels, or fits into a frame (per sample, in the loader)."""

    size: int = Field(224, ge=1, description="Side of the pictures in pixels; the system's must be the same.")
    resize: Literal["squash", "crop", "random_crop", "zoom_crop", "pad", "fit", "tiles"] = Field(
        "squash",
        description="`squash`: to the square, ignoring the aspect ratio; `crop`: the central square; "
        "`random_crop`: a random part (evaluation: `squash`, as published); `zoom_crop`: a square at a "
        "random place, its side the shorter one divided by `zoom` (evaluation: the centre); `pad`: the whole "
        "picture with bars of `background`; `fit`: the whole picture in its own shape, within `long` and "
        "`short`, for systems that take pictures of any size; `tiles`: cut into tiles of `size` as `tiling` "
        "says, for multimodal language models.",
    )
    tiling: TilingConfig = Field(
        TilingConfig(),
        description="`tiles`: how pictures are cut. That of the system (`system.tiling`) where it has one, "
        "whatever is set here but `eval_hd_num`; sources that are drawn from by themselves may have limits "
        "of their own.",
    )
    pictures: int = Field(1, ge=1, description="`tiles`: most pictures of a sample.")
    long: int = Field(1000, ge=1, description="`fit`: longest side in pixels.")
    short: int = Field(600, ge=1, description="`fit`: shorter side in pixels at most.")
    train_long: int = Field(0, ge=0, description="`fit`: the longest side in training; 0: `long`.")
    train_short: tuple[int, int] | None = Field(
        None,
        description="`fit`: in training the limit of the shorter side is drawn between these two, both "
        "included; none: `short`.",
    )
    multiple: int = Field(
        32, ge=1, description="`fit`: sides of a batch are multiples of so many pixels (padded)."
    )
    interpolation: Literal["bicubic", "opencv"] = Field(
        "bicubic",
        description="`fit`: smoothed bicubic, or bilinear to the bit as OpenCV does it (published SOHO).",
    )
    scale: tuple[float, float] = Field(
        (0.5, 1.0), description="`random_crop`: smallest and largest share of the picture's area."
    )
    ratio: tuple[float, float] = Field(
        (3 / 4, 4 / 3), description="`random_crop`: smallest and largest width / height of the part."
    )
    zoom: tuple[float, float] = Field(
        (1.0, 1.5),
        description="`zoom_crop`: smallest and largest factor that the picture is enlarged by beyond the "
        "square, as recipes that scale the shorter side at random before a crop do.",
    )
    zoom_eval: float = Field(1.0, ge=1, description="`zoom_crop`: that factor in an evaluation.")
    flip: float = Field(0.0, ge=0, le=1, description="Probability of mirroring left and right in training.")
    flip_unless: tuple[str, ...] = Field(
        (),
        description="Words (such as `left`) that forbid mirroring a picture where they are part of its text "
        "or of an answer to its question.",
    )
    background: str = Field(
        "white", description="What transparent pixels and bars show: `white`, `black`, `grey` or `#rrggbb`."
    )

    @field_validator("background")
    @classmethod
    def _is_colour(cls, value: str) -> str:
        parse_colour(value)
        return value

    @model_validator(mode="after")
    def _tiles(self) -> Self:
        if self.resize == "tiles" and self.flip:
            raise ValueError("flip: tiles are not mirrored; set it to 0")
        return self

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale: expected 0 < smallest <= largest <= 1, got {self.scale}")
        if self.train_short is not None and not 0 < self.train_short[0] <= self.train_short[1]:
            raise ValueError(f"train_short: expected 0 < smallest <= largest, got {self.train_short}")
        if not 1 <= self.zoom[0] <= self.zoom[1]:
            raise ValueError(f"zoom: expected 1 <= smallest <= largest, got {self.zoom}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio: expected 0 < smallest <= largest, got {self.ratio}")
        return self


class TextConfig(Section):
    """How a caption becomes token ids."""

    tokenizer: str = Field(
        "auto",
        description="Path of a tokenizer.json (or a folder with one), or `auto`: the tokenizer of "
        "`init_from`, else one trained on the captions of the selection; `uniperceiver`: the packaged "
        "vocabulary of CLIP with that system's tokens.",
    )
    specials: Literal["bert", "uniperceiver"] = Field(
        "bert",
        description="Special tokens of a tokenizer trained by `auto`: BERT's, or padding (0), unknown (1), "
        "end (2) and slot (3) of Uni-Perceiver, whose texts have no start token.",
    )
    vocab_size: int = Field(2000, ge=8, description="Largest vocabulary of a tokenizer trained by `auto`.")
    max_tokens: int = Field(40, ge=3, description="Texts are cut to so many tokens, specials included.")
    padding: Literal["max_length", "longest"] = Field(
        "max_length",
        description="Texts are padded to `max_tokens`, or only to the longest of a batch: faster, and the "
        "same for models that take no notice of padding.",
    )
    pick: Literal["first", "random"] = Field(
        "first", description="Which caption of a sample a training batch shows. Evaluation sees all of them."
    )
    per_picture: int = Field(
        1,
        ge=1,
        description="Captions that a training batch shows of each picture; pictures with fewer show some of "
        "them again. With `pick=random` they are drawn, each once before any comes twice.",
    )
    clean: Literal["none", "caption", "question"] = Field(
        "none", description="Cleaning before tokenisation: the published rules for captions or for questions."
    )
    max_words: int = Field(0, ge=0, description="Keep the first so many words; 0 keeps all.")


class LoaderConfig(Section):
    """How batches are put together."""

    batch_size: int = Field(64, ge=1, description="Samples of a batch over all ranks together.")
    workers: int = Field(0, ge=0, description="Loader processes; they change the speed, never the batches.")
    on_error: Literal["raise", "skip", "count"] = Field(
        "skip",
        description="A sample that cannot be used: `raise` stops and names it, `skip` leaves it out, logs "
        "it and counts it by cause, `count` leaves it out and counts it.",
    )
    shuffle: bool = Field(True, description="A new order each epoch; otherwise the order of the index.")
    cache_mb: int = Field(
        0,
        ge=0,
        description="MiB of memory for pictures already decoded; 0 decodes each time. Resized pictures are "
        "shared by the workers; `random_crop` keeps whole ones, in each process.",
    )
    group_size: int = Field(
        1,
        ge=1,
        description="Put so many samples of equal `group_by` beside each other (and so into one batch, if it "
        "divides the batch size), where they exist.",
    )
    group_by: str = Field(
        "match_id",
        description="Column of the index that says which samples belong together: `match_id` gives a batch "
        "several pictures of one thing, a category gives it harder negatives.",
    )
    block_size: int = Field(
        0,
        ge=0,
        description="Shuffle blocks of so many consecutive samples instead of single samples, for shards "
        "that are read over a network; 0: every sample by itself.",
    )
    block_window: int = Field(
        16, ge=1, description="Blocks whose samples are mixed with each other (with `block_size`)."
    )
    budget: int = Field(
        0,
        ge=0,
        description="Largest cost of a batch: its samples times the longest of them, by `budget_by`; 0: "
        "every batch has `batch_size` samples. With a budget `batch_size` is the most samples a batch has.",
    )
    budget_by: str = Field(
        "text",
        min_length=1,
        description="What a sample costs: `text` (tokens: column `text_tokens`, else a token for 4 letters), "
        "`image` (patches of 16 x 16 pixels), `tiles` (views of a picture that is cut into tiles, at most), "
        "`frames`, or a column of numbers of the index.",
    )
    budget_window: int = Field(
        4096,
        ge=1,
        description="Samples that are sorted by cost, or packed, together and then cut into batches.",
    )
    bucket: Literal["none", "aspect", "shape", "published"] = Field(
        "none",
        description="Which pictures share a batch (for `image.resize=fit`). `aspect`: upright and lying "
        "ones never do; `shape`: those of similar shape do, so that little is padded, as far as "
        "`budget_window` samples allow. `published`: upright and lying ones apart, in the very order of "
        "SOHO's sampler, which depends on the number of ranks.",
    )
    pack: bool = Field(
        False,
        description="Put several short texts into one sequence of `text.max_tokens`; `batch_size` then "
        "counts sequences, and `budget` their tokens.",
    )

    @model_validator(mode="after")
    def _one_way_to_order(self) -> Self:
        if self.block_size and self.group_size > 1:
            raise ValueError(
                f"block_size: {self.block_size} together with group_size = {self.group_size}: blocks keep "
                "the order of the index, groups need all of it; set one of them to 0 or 1"
            )
        others = {"group_size": self.group_size > 1, "budget": self.budget, "pack": self.pack}
        clash = [name for name, there in others.items() if there and self.bucket != "none"]
        if clash or (self.bucket == "published" and self.block_size):
            raise ValueError(
                f"bucket: {self.bucket} decides which samples share a batch, and so does "
                f"{(clash or ['block_size'])[0]}; use one of them"
            )
        if self.group_size > 1 and (self.budget or self.pack):
            name = "pack" if self.pack else "budget"
            raise ValueError(
                f"{name}: sorts samples by length, group_size = {self.group_size} puts samples of a group "
                "beside each other; use one of them"
            )
        return self


class RemoteConfig(Section):
    """How a dataset behind a URL is read."""

    read: Literal["cache", "range"] = Field(
        "cache",
        description="`cache`: whole shards are copied once into a local folder; `range`: every sample is "
        "read by itself where it lies, and nothing is kept but the index.",
    )
    cache: str = Field("", description="Folder of the local copies; none: the user's cache folder.")
    cache_gb: float = Field(
        100.0,
        ge=0,
        description="GiB that all shards in that folder may have; those unused for the longest time go "
        "first. 0: no limit.",
    )
    ahead: int = Field(
        8, ge=0, description="Shards that may wait at a time to be fetched before they are needed."
    )
    retries: int = Field(5, ge=0, description="Further tries after one that failed.")
    backoff: float = Field(
        1.0, ge=0, description="Longest wait before the first further try, in seconds; it doubles each time."
    )
    timeout: float = Field(
        60.0, gt=0, description="Seconds without a connection, or without a byte, that count as a failure."
    )
    allow_private: bool = Field(
        False, description="Let http:// and https:// reach private and local addresses."
    )


Amount = Annotated[float, Field(ge=0)]
RandAugmentOp = Literal[
    "Identity",
    "AutoContrast",
    "Equalize",
    "Brightness",
    "Sharpness",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
]
RANDAUGMENT: tuple[RandAugmentOp, ...] = get_args(RandAugmentOp)
"""Operations of RandAugment in the published order."""


class AugmentConfig(Section):
    """Random changes to whole batches of pictures, on the device. Everything is off by default.

    They are applied in the order of the fields: geometry, colours, background, texture, jitter,
    RandAugment.
    """

    rotation: float = Field(0.0, ge=0, le=180, description="Largest rotation either way, in degrees.")
    zoom: float = Field(0.0, ge=0, lt=1, description="Largest change of size: 0.15 is a factor 0.85 to 1.15.")
    stretch: float = Field(0.0, ge=0, lt=1, description="Largest change of width / height, as for `zoom`.")
    translation: float = Field(0.0, ge=0, le=1, description="Largest shift each way, as a share of the side.")
    outside: Literal["edge", "background"] = Field(
        "edge",
        description="What the changes so far bring in from outside: the edge goes on, or the background.",
    )
    hue: float = Field(
        0.0, ge=0, le=0.5, description="Largest turn of the hue circle either way (0.5: half of it)."
    )
    saturation: float = Field(0.0, ge=0, le=1, description="Largest relative change of saturation.")
    contrast: float = Field(0.0, ge=0, le=1, description="Largest relative change of contrast.")
    brightness: float = Field(0.0, ge=0, le=1, description="Largest shift of brightness (1: black to white).")
    grayscale: float = Field(0.0, ge=0, le=1, description="Probability of taking all colour away.")
    permute_channels: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Probability of shuffling red, green and blue (instead of the colour changes).",
    )
    invert: float = Field(0.0, ge=0, le=1, description="Probability of the negative.")
    posterize: float = Field(0.0, ge=0, le=1, description="Probability of reducing colours to 4 to 7 levels.")
    random_background: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Probability that transparent pixels show a random colour in training instead of "
        "`image.background`.",
    )
    sharpness: float = Field(
        0.0, ge=0, description="Largest blur (down) or sharpening (up); 1: a full 3 x 3 blur."
    )
    noise: float = Field(0.0, ge=0, le=1, description="Largest standard deviation of Gaussian pixel noise.")
    erase: float = Field(0.0, ge=0, le=1, description="Probability of a grey square at a random place.")
    erase_size: float = Field(0.4, gt=0, le=1, description="Side of that square as a share of the picture's.")
    jitter: tuple[Amount, Amount, Amount] = Field(
        (0.0, 0.0, 0.0),
        description="Brightness, contrast and saturation times factors of 1 - value to 1 + value, in random "
        "order, as published recipes do ([0.4, 0.4, 0.4]).",
    )
    randaugment_ops: int = Field(
        0,
        ge=0,
        description="RandAugment: so many operations are drawn for a picture, each applied with probability "
        "1/2; published recipes have 2.",
    )
    randaugment_level: float = Field(
        7.0, ge=0, le=10, description="How strong they are; 7: rotation by 21 degrees, brightness times 1.36."
    )
    randaugment_choices: tuple[RandAugmentOp, ...] = Field(
        RANDAUGMENT, min_length=1, description="The operations to draw from."
    )
    randaugment_published: bool = Field(
        False,
        description="With the faults of the published code: AutoContrast makes channels without black "
        "white, Sharpness turns overexposed pixels dark.",
    )

    @property
    def moves(self) -> bool:
        """Whether any change of geometry is on."""
        return bool(self.rotation or self.zoom or self.stretch or self.translation)

    @property
    def moves_some(self) -> bool:
        """Whether RandAugment may change geometry."""
        geometry = ("Shear", "Translate", "Rotate")
        return bool(self.randaugment_ops) and any(c.startswith(geometry) for c in self.randaugment_choices)

    @property
    def keeps_opacity(self) -> bool:
        """Whether the loader hands over opacity as a fourth channel for `augment` to lay on a background."""
        return bool(self.random_background or (self.moves and self.outside == "background"))


class DataConfig(Section):
    """Which samples to read and how."""

    path: str = Field(
        "",
        description="Folder or URL of a prepared dataset, folder of WebDataset tars, or one tar.",
    )
    split: str | None = Field(None, description="Named split of the dataset; none: all samples.")
    where: str | None = Field(None, description="SQL condition over the index that samples must also meet.")
    share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Train on only so much of what is selected, the same samples in every run: int(share n) "
        "of n, at least one; with `share_by` int(share n) + 1 of the n of each value, as published.",
    )
    share_by: str = Field(
        "", description="Column of the index (a class) whose every value keeps its `share`; empty: of all."
    )
    share_seed: int = Field(0, ge=0, description="Another number takes other samples.")
    examples: Examples = Field(
        "samples",
        description="What a row of a batch is: a sample; one of its `captions` (evaluation: a sample); "
        "one of its `questions`; one of its `statements`, with two pictures; or one of its `choices`, with "
        "five texts.",
    )
    sources: dict[str, SourceConfig] = Field(
        {}, description="Datasets to mix, by names of your choice; none: `data.path` alone."
    )
    mixture: MixtureConfig = MixtureConfig()
    remote: RemoteConfig = RemoteConfig()
    image: ImageConfig = ImageConfig()
    video: VideoConfig = VideoConfig()
    text: TextConfig = TextConfig()
    loader: LoaderConfig = LoaderConfig()
    augment: AugmentConfig = AugmentConfig()

    @model_validator(mode="after")
    def _same_pictures(self) -> Self:
        if self.mixture.draw != "samples":
            return self  # batches of one source each mix with nothing
        kinds = {name: source.examples or self.examples for name, source in self.sources.items()}
        if len(set(kinds.values())) > 1 and "statements" in kinds.values():
            raise ValueError(
                f"sources: rows of statements have two pictures and do not mix with others ({kinds}); "
                "set examples = statements for all of them, or for none"
            )
        return self

    @model_validator(mode="after")
    def _same_texts(self) -> Self:
        if self.mixture.draw != "samples":
            return self
        kinds = {name: source.examples or self.examples for name, source in self.sources.items()}
        found = set(kinds.values()) or {self.examples}
        if len(found) > 1 and "choices" in found:
            raise ValueError(
                f"sources: rows of choices have five texts and do not mix with others ({kinds}); set "
                "examples = choices for all of them, or for none"
            )
        if "choices" in found and (self.loader.pack or self.text.per_picture > 1):
            raise ValueError(
                f"examples = choices: rows have five texts each; loader.pack = {self.loader.pack} and "
                f"text.per_picture = {self.text.per_picture} do not go with them; set false and 1"
            )
        return self

    @model_validator(mode="after")
    def _clips(self) -> Self:
        if self.mixture.draw != "samples" and self.sources:
            return self
        kinds = {source.examples or self.examples for source in self.sources.values()} or {self.examples}
        if self.video.frames and "statements" in kinds:
            raise ValueError(
                f"video.frames = {self.video.frames}: rows of statements have two pictures; set "
                "video.frames = 0, or another data.examples"
            )
        if self.video.crops > 1 and self.image.resize not in ("crop", "zoom_crop"):
            raise ValueError(
                f"video.crops = {self.video.crops}: image.resize = {self.image.resize} does not cut out a "
                "square; set image.resize to crop or zoom_crop"
            )
        return self

    @model_validator(mode="after")
    def _own_shapes(self) -> Self:
        if self.image.resize in ("fit", "tiles") and (self.augment.moves or self.augment.moves_some):
            raise ValueError(
                "augment: rotation, zoom, stretch, translation and RandAugment's Shear, Translate and Rotate "
                f"move what is in a frame, but with image.resize = {self.image.resize} a frame has padding "
                "or is part of a picture; switch them off"
            )
        if self.image.resize == "tiles" and self.video.frames:
            raise ValueError(
                f"video.frames = {self.video.frames}: frames of clips are not cut into tiles; set "
                "image.resize to another rule, or video.frames = 0"
            )
        if self.loader.pack and self.text.per_picture > 1:
            raise ValueError(
                f"text.per_picture = {self.text.per_picture}: loader.pack puts one text a sample into its "
                "sequences; use one of them"
            )
        return self

    @model_validator(mode="after")
    def _whole_parts(self) -> Self:
        parts, size = self.mixture.parts, self.loader.batch_size
        if parts and size % parts:
            raise ValueError(
                f"mixture.parts = {parts} does not divide loader.batch_size = {size}; a batch has equal parts"
            )
        budget, length = self.loader.budget // max(parts, 1), self.text.max_tokens
        if self.loader.pack and self.loader.budget and budget < length:
            raise ValueError(
                f"loader.budget = {self.loader.budget} is less than a packed sequence in each part: "
                f"expected at least {max(parts, 1) * length} (text.max_tokens = {length})"
            )
        return self
