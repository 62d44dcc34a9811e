"""Whether media can be decoded, by the ways that training takes."""

from collections.abc import Iterator, Mapping

from diptych.data.decode import JpegDecoder
from diptych.data.image import PictureError, decode_fast, open_image
from diptych.data.members import is_picture, is_video
from diptych.data.raw.refs import MediumError
from diptych.data.stills import check_video


class MediaCheck:
    """Decodes the media of one sample after the other."""

    def __init__(self) -> None:
        self._decoder = JpegDecoder()

    def problems(self, media: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
        """Yield cause and detail of each medium that cannot be decoded.

        Pictures are decoded whole and in full size, as the loader does; of videos the first and the last
        frame are. Other media are not looked at.
        """
        for name in sorted(media):
            try:
                self._decode(name, media[name])
            except PictureError as error:
                yield error.cause, f"{name}: {_inside(str(error))}"
            except MediumError as error:
                yield error.cause, f"{name}: {error.detail}"

    def _decode(self, name: str, data: bytes) -> None:
        if is_picture(name):
            if decode_fast(data, self._decoder) is None:
                open_image(data)
        elif is_video(name):
            check_video(data)


def _inside(message: str) -> str:
    """Return what stands in the brackets of "cause (detail)"."""
    return message.partition(" (")[2].removesuffix(")") or message
