"""install.py chooses a build of torch and prints messages. Its commands are recorded, not run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

import install

UNREACHABLE = "Using Python 3.11\nerror: Failed to fetch: https://builds.example/torch/\n  cause: dns error"
SIZES = {"https://files.example/torch.whl": 900_000_000, "https://files.example/nvidia.whl": 2_100_000_000}


@dataclass
class Outside:
    """A fake pip and uv. `fails`: words of the commands that fail; `loads`: the files that pip would download."""

    fails: tuple[str, ...] = ()
    loads: dict[str, str] = field(default_factory=lambda: {"torch": "file:///wheels/torch.whl"})
    ran: list[str] = field(default_factory=list)
    environ: dict[str, dict[str, str]] = field(default_factory=dict)

    def __call__(self, argv: Sequence[str], capture: bool = False, **environ: str) -> tuple[int, str, str]:
        tool = "uv" if argv[0].endswith("/uv") else "pip"
        options = [each for each in argv if each in ("--dry-run", "--torch-backend=auto")]
        command = " ".join([tool, *options, argv[-1]])
        assert install.PINS[1] in argv, f"{command} heeds no constraints"
        self.ran.append(command)
        self.environ[command] = environ
        if command in self.fails:
            return 1, "", UNREACHABLE
        items = [{"metadata": {"name": name}, "download_info": {"url": url}} for name, url in self.loads.items()]
        return 0, json.dumps({"install": items}), ""


UV = ["pip uv", "uv --torch-backend=auto --dry-run torch", "uv --torch-backend=auto torch"]
REST = f"pip {install.ROOT}[dev]"


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "installed_torch", lambda: None)


def test_uv_chooses_the_build() -> None:
    outside = Outside()
    assert install.install([], outside) == 0
    assert outside.ran == [*UV, REST]


@pytest.mark.parametrize("step", [0, 1, 2])
def test_pip_installs_torch_when_uv_cannot(step: int, capsys: pytest.CaptureFixture[str]) -> None:
    outside = Outside(fails=(UV[step],))
    assert install.install([], outside) == 0
    assert outside.ran == [*UV[: step + 1], "pip --dry-run torch", "pip torch", REST]
    said = capsys.readouterr().out
    reason = "see above" if step == 2 else "error: Failed to fetch: https://builds.example/torch/"
    assert f"uv cannot choose a build of torch here ({reason}). pip installs its default build instead." in said
    assert "torch and what it needs: 0 MB to download" in said
    assert "TORCH_FLAGS" not in said


def test_unreachable_index_costs_seconds_but_a_download_may_take_long() -> None:
    outside = Outside()
    install.install([], outside)
    assert outside.environ[UV[1]] == {"UV_HTTP_RETRIES": "0", "UV_HTTP_TIMEOUT": "10"}
    assert outside.environ[UV[2]] == {}


def test_size_of_a_cuda_build_is_shown_before_the_download(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("torch", "nvidia-cublas")
    outside = Outside(fails=(UV[1],), loads=dict(zip(names, SIZES, strict=True)))
    install.install([], outside, SIZES.__getitem__)
    said = capsys.readouterr().out
    assert "torch and what it needs: 3.0 GB to download" in said
    assert 'make TORCH_FLAGS="--index-url <index>" demo' in said


def test_unknown_download_size_is_not_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    def silent(url: str) -> int:
        raise OSError("refused")

    outside = Outside(fails=(UV[1],), loads={"torch": "https://files.example/torch.whl"})
    assert install.install([], outside, silent) == 0
    assert "an unknown amount; with CUDA it is about 3 GB, without it 200 MB" in capsys.readouterr().out


def test_torch_flags_go_to_pip_without_uv() -> None:
    outside = Outside()
    assert install.install(["--index-url", "https://builds.example/cpu"], outside) == 0
    assert outside.ran == ["pip torch", REST]


def test_installed_torch_is_not_downloaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "installed_torch", lambda: "2.13.0+cpu")
    outside = Outside()
    assert install.install([], outside) == 0
    assert outside.ran == [REST]


def test_install_stops_when_torch_fails() -> None:
    outside = Outside(fails=("pip uv", "pip torch"))
    assert install.install([], outside) == 1
    assert REST not in outside.ran


@pytest.mark.parametrize(("version", "fits"), [("{}", True), ("{}+cpu", True), ("{}+cu130", True), ("2.0.0", False)])
def test_any_build_of_the_pinned_version_is_accepted(version: str, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    pinned = (install.ROOT / "constraints.txt").read_text().partition("torch==")[2].split()[0]
    monkeypatch.setattr(install.metadata, "version", lambda name: version.format(pinned))
    assert (install.installed_torch() is not None) == fits
