"""Training that is cut into slices ends where training in one piece ends."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from model.training.slices import Progress, load_state, save_state


def parts() -> tuple[dict[str, nn.Module], torch.optim.AdamW]:
    """Two modules, the second with a tied weight, and their optimiser in two groups."""
    torch.manual_seed(0)
    body, head = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    head[1].weight = head[0].weight
    groups = [{"params": [body.weight, head[0].weight], "weight_decay": 0.1}, {"params": [body.bias]}]
    return {"body": body, "head": head}, torch.optim.AdamW(groups, lr=0.05, weight_decay=0.0)


def batches() -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(7)
    while True:
        yield torch.randn(8, 4, generator=generator)


def step(modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer, batch: Tensor) -> None:
    loss = (modules["head"](modules["body"](batch)) - batch.flip(1)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def weights(modules: dict[str, nn.Module]) -> list[Tensor]:
    return [value for module in modules.values() for value in module.state_dict().values()]


def test_a_cut_changes_nothing(tmp_path: Path) -> None:
    whole, optimizer = parts()
    for _, batch in zip(range(9), batches(), strict=False):
        step(whole, optimizer, batch)

    source, state = batches(), tmp_path / "stage.safetensors"
    for number in range(3):
        cut, optimizer = parts()  # as a new process begins
        progress = load_state(state, cut, optimizer)
        assert (progress.step, progress.slices) == (3 * number, number)
        for _ in range(3):
            step(cut, optimizer, next(source))
        save_state(state, cut, optimizer, Progress(seconds=1.5, step=progress.step + 3, slices=progress.slices))
    assert all(torch.equal(one, other) for one, other in zip(weights(whole), weights(cut), strict=True))


def test_the_beginning(tmp_path: Path) -> None:
    modules, optimizer = parts()
    before = [value.clone() for value in weights(modules)]
    assert load_state(tmp_path / "none.safetensors", modules, optimizer) == Progress(0.0, 0, 0)
    assert all(torch.equal(one, other) for one, other in zip(before, weights(modules), strict=True))


def test_a_process_killed_while_writing_leaves_the_slice_before(tmp_path: Path) -> None:
    modules, optimizer = parts()
    state = tmp_path / "stage.safetensors"
    step(modules, optimizer, next(batches()))
    save_state(state, modules, optimizer, Progress(seconds=2.0, step=1))
    state.with_suffix(".new").write_bytes(b"half of a")
    again, fresh = parts()
    assert load_state(state, again, fresh) == Progress(2.0, 1, 1)


def test_state_of_other_modules_is_refused(tmp_path: Path) -> None:
    modules, optimizer = parts()
    step(modules, optimizer, next(batches()))
    save_state(tmp_path / "s.safetensors", modules, optimizer, Progress())
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_state(tmp_path / "s.safetensors", {"body": nn.Linear(3, 3)}, optimizer)
