"""What may be lent to Ray-native programs, as a setting says it."""

import pytest

from fetchmld.config import Config
from fetchmld.core.errors import Invalid
from fetchmld.ray_share import RayShare


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", RayShare()),
        ("cpu=4", RayShare(cpu=4)),
        ("gpu=1,cpu=4", RayShare(4, 1)),
        (" cpu=4, gpu=1, memory=16 ", RayShare(4, 1, 16)),
        ("cpu=0", RayShare()),
    ],
)
def test_a_share_is_amounts_by_name(text: str, share: RayShare) -> None:
    assert RayShare.parse(text) == share
    assert Config(ray_share=text).share == share
    assert bool(share) == (share != RayShare())


@pytest.mark.parametrize(
    "text", ["4", "cpu", "cpu=", "cpu=-1", "cpu=1.5", "cpu=x", "gpus=1", "cpu=1,cpu=2", "cpu=1;gpu=1", "cpu=²"]
)
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(Invalid, match="ray_share"):
        Config.load(None, {"ray_share": text})
