"""Pictures that zarr stores compress one by one with imagecodecs, as recorders of UMI and Diffusion Policy do."""

import functools
import importlib.util
from typing import Any, ClassVar

import numcodecs.registry
from numcodecs.abc import Codec


class _ImageCodec(Codec):
    """Decodes pictures; settings of the encoder (level, effort and others) are of no use to a decoder.

    imagecodecs' own codecs refuse settings that their release does not know, which those of UMI's recorder include.
    """

    decoder: ClassVar[str]

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def encode(self, buf: Any) -> Any:
        raise NotImplementedError(f"{self.codec_id} is read here, not written")

    def decode(self, buf: Any, out: Any = None) -> Any:
        import imagecodecs

        return getattr(imagecodecs, self.decoder)(bytes(buf), numthreads=1, out=out)

    def get_config(self) -> dict[str, Any]:
        return {"id": self.codec_id, **self._settings}


class JpegXl(_ImageCodec):
    """JPEG XL: UMI's replay buffers."""

    codec_id = "imagecodecs_jpegxl"
    decoder = "jpegxl_decode"


class Jpeg2k(_ImageCodec):
    """JPEG 2000: Diffusion Policy's own conversions of real recordings."""

    codec_id = "imagecodecs_jpeg2k"
    decoder = "jpeg2k_decode"


IMAGE_CODECS = {codec.codec_id: codec for codec in (JpegXl, Jpeg2k)}


@functools.cache
def register_image_codecs() -> None:
    """Makes zarr read these pictures, if imagecodecs is installed; that library is loaded at the first picture.

    Once a process: to look for a package takes as long as to read a small array.
    """
    if importlib.util.find_spec("imagecodecs"):
        for name, codec in IMAGE_CODECS.items():
            if name not in numcodecs.registry.codec_registry:
                numcodecs.registry.register_codec(codec)
