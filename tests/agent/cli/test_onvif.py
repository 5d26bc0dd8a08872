"""ONVIF cameras: the library's client against a device with passwords."""

import pytest

pytest.importorskip("onvif", reason="needs the extra onvif")
pytest.importorskip("wsdiscovery", reason="needs the extra onvif")

from agent.cli.setup.onvif import _host_of, find_onvif
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


@pytest.mark.parametrize("video", ["rtsp://[127.0.0.1", "file:///etc", "rtsp://[x]:1"])
async def test_a_device_with_a_bad_address_does_not_end_the_search(video: str) -> None:
    async with onvif_device("s3cret") as bad, onvif_device("s3cret") as good:
        bad.video = video
        hosts = [f"127.0.0.1:{bad.port}", f"127.0.0.1:{good.port}", "127.0.0.1:http"]
        found = await find_onvif(hosts, "ann", "s3cret")
    assert [bool(each.url) for each in found] == [False, True, False]
    assert "not valid" in found[0].problem
    assert "no host" in found[2].problem


def test_what_devices_announce() -> None:
    announced = ["http://10.0.0.7/onvif", "http://10.0.0.8:8000/", "http://[bad/", "http://h:port/", "https://h/"]
    assert [_host_of(each) for each in announced] == ["10.0.0.7:80", "10.0.0.8:8000", "", "", ""]
