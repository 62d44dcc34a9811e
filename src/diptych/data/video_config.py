"""Settings of clips: how many frames of a video, and which. No heavy imports, for the command line."""

from typing import Literal, Self

from pydantic import Field, model_validator

from diptych.config.schema import Section


class VideoConfig(Section):
    """Clips of videos: with `frames` every row is a clip, and a picture is a video of one frame."""

    frames: int = Field(
        0, ge=0, description="Frames of a clip; 0: samples are pictures, and videos are not read."
    )
    policy: Literal["segments", "uniform", "middles", "dense", "fps"] = Field(
        "segments",
        description="Which frames. `segments`: the video is cut into `frames` equal parts, one frame of each "
        "(training: a random one); `uniform`: evenly from the first to the last; `middles`: the middles of "
        "equal parts, rounded as MVBench does; `dense`: every `stride`-th from some start (training: a "
        "random one); `fps`: `fps` a second, at most `frames`.",
    )
    random: bool = Field(
        True, description="Training draws frames (`segments`, `dense`); no: the same as in an evaluation."
    )
    place: Literal["middle", "start"] = Field(
        "middle", description="`segments`: the frame of each part that is shown where none is drawn."
    )
    short: Literal["spread", "last"] = Field(
        "spread",
        description="`segments`, videos of fewer frames than `frames`: the repeated ones are spread out "
        "(SNP-S3), or the last one is repeated (VideoChat2).",
    )
    stride: int = Field(1, ge=1, description="`dense`: from one frame to the next.")
    fps: float = Field(1.0, gt=0, description="`fps`: frames a second.")
    clips: int = Field(
        1, ge=1, description="`dense`: clips of each video in an evaluation; a row has all their frames."
    )
    clips_at: Literal["spread", "interleaved"] = Field(
        "spread",
        description="Where several clips lie. `spread`: from the start to the end of the video; "
        "`interleaved`: the frames at `stride` / `clips` from the middle, dealt out in turn.",
    )
    crops: Literal[1, 3] = Field(
        1,
        description="Squares of each clip in an evaluation, with image.resize crop or zoom_crop: the central "
        "one, or three along the longer side.",
    )
    part: Literal["all", "times"] = Field(
        "all",
        description="`times`: only the frames between `start` and `end` (seconds) of a sample's meta, for "
        "shards that keep whole videos.",
    )

    @model_validator(mode="after")
    def _views(self) -> Self:
        if self.clips > 1 and self.policy != "dense":
            raise ValueError(
                f"clips = {self.clips}: several clips of a video are dense ones; set policy = dense"
            )
        return self

    def views(self, training: bool) -> int:
        """Return how many clips of `frames` frames a row has."""
        return 1 if training else self.clips * self.crops
