"""ONVIF cameras: the library's client against a device with passwords."""

import pytest

pytest.importorskip("onvif", reason="needs the extra onvif")
pytest.importorskip("wsdiscovery", reason="needs the extra onvif")

from agent.cli.setup.onvif import find_onvif
from tests.support.network import free_port
from tests.support.onvif_device import onvif_device


async def test_the_camera_gives_the_address_of_its_video() -> None:
    async with onvif_device("s3cret/é") as device:
        (found,) = await find_onvif([f"127.0.0.1:{device.port}"], "ann", "s3cret/é")
    assert found.problem == ""
    assert found.url == "rtsp://ann:s3cret%2F%C3%A9@127.0.0.1:554/middle"  # the smallest that is wide enough
    assert "GetStreamUri" in device.asked


async def test_a_wrong_password_and_a_host_that_is_off_are_told() -> None:
    async with onvif_device("s3cret") as device:
        wrong, away = await find_onvif([f"127.0.0.1:{device.port}", f"127.0.0.1:{free_port()}"], "ann", "guess")
    assert "not Authorized" in wrong.problem
    assert wrong.url == away.url == ""
    assert away.problem
