"""Whether media can be decoded, by the ways that training takes."""

import io
from collections.abc import Iterator, Mapping

from PIL import Image

from diptych.data.decode import JpegDecoder
from diptych.data.image import PictureError, decode_fast, open_image
from diptych.data.members import is_picture, is_video
from diptych.data.raw.refs import MediumError
from diptych.data.stills import check_video

_PNG = b"\x89PNG\r\n\x1a\n"


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
                _check_sums(data)
        elif is_video(name):
            check_video(data)


def _check_sums(data: bytes) -> None:
    """Refuse a PNG whose checksums are wrong: Pillow decodes broken ones to black without a word."""
    if not data.startswith(_PNG):
        return
    with Image.open(io.BytesIO(data)) as image:
        try:
            image.verify()
        except Exception as error:  # damaged bytes raise almost anything: OSError, SyntaxError, struct.error
            raise PictureError("damaged picture", str(error)) from error


def _inside(message: str) -> str:
    """Return what stands in the brackets of "cause (detail)"."""
    return message.partition(" (")[2].removesuffix(")") or message
