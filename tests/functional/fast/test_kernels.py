"""The compiled loops against torch's own operations, and what happens where there is no compiler."""

from __future__ import annotations

import math
import shutil
import stat
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tests.tiny import tiny_gpt2, tiny_llama
from torch import Tensor

from heedful.functional import chunked_token_logprobs_and_entropy
from heedful.functional.fast import kernels
from heedful.model import Sampling, generate, pack, pack_shared
from heedful.model.engine.sampling import _draw_chunk
from heedful.model.engine.slots import Slots
from heedful.model.fast.ranges import RangesLayout

# What a machine without a compiler cannot test: heedful goes on without the loops there.
pytestmark = pytest.mark.skipif(not kernels.usable(torch.zeros(1)), reason="no C++ compiler on this machine")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # tiles round probabilities to bf16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("key_heads", [1, 2, 6])
@pytest.mark.parametrize("width", [5, 20, 32, 64, 128])
@pytest.mark.parametrize("window", [None, 1, 9])
def test_attention_of_new_tokens_is_torchs(
    dtype: torch.dtype, key_heads: int, width: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def filled(kind: torch.dtype) -> Slots:
        torch.manual_seed(1)
        slots = Slots([1, 40, 7, 8, 9, 33])
        rows = torch.repeat_interleave(torch.arange(6), torch.tensor(slots.lengths))
        positions = torch.cat([torch.arange(length) for length in slots.lengths])
        key, value = torch.randn(2, len(rows), key_heads, width).to(dtype).to(kind)
        slots.write_prompts(0, rows, positions, key, value)
        slots.prepare()
        return slots

    ours = filled(dtype)
    assert ours._addresses
    with monkeypatch.context() as without:
        without.setattr(kernels, "usable", lambda _: False)
        theirs = filled(torch.float32)  # of bf16's numbers: torch's bf16 scores are coarser than ours
    assert not theirs._addresses
    for _ in range(30):  # past the end of the cache's grid
        joined = torch.randn(ours.rows, 3, 6, width).to(dtype)  # slices whose rows lie apart, as a model's products have them
        query, key, value = joined[:, 0], joined[:, 1, :key_heads], joined[:, 2, :key_heads]
        found = ours.attend(0, query, key, value, 0.3, window)
        expected = theirs.attend(0, query.float(), key.float(), value.float(), 0.3, window).to(dtype)
        torch.testing.assert_close(found[:6], expected[:6], atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
        ours.advance()
        with monkeypatch.context() as without:
            without.setattr(kernels, "usable", lambda _: False)
            theirs.advance()


def test_rows_of_filler_behind_the_caches_change_nothing() -> None:
    torch.manual_seed(8)
    query, key, value = torch.randn(3, 5, 2, 32)
    positions = torch.tensor([0, 4, 2])

    def attended(rows: int) -> Tensor:
        torch.manual_seed(9)
        caches = torch.randn(2, 3, 2, 8, 32)
        addresses = (caches[0].data_ptr(), caches[1].data_ptr())
        return kernels.attend(query[:rows], key[:rows], value[:rows], addresses, 8, positions, 0.2)

    assert torch.equal(attended(5)[:3], attended(3))
    assert (attended(5)[3:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("addend", [True, False])
@pytest.mark.parametrize("shape", [(1, 3), (7, 48), (300, 640)])
def test_sum_and_norm_are_torchs(dtype: torch.dtype, addend: bool, shape: tuple[int, int]) -> None:
    hidden, added = torch.randn(2, *shape).to(dtype)
    weight, bias = torch.randn(2, shape[1]).to(dtype)
    total = hidden + added if addend else hidden.clone()
    normed = kernels.add_norm(hidden, added if addend else None, weight, bias, 1e-5)
    assert torch.equal(hidden, total)
    expected = F.layer_norm(total, shape[1:], weight, bias, 1e-5)
    torch.testing.assert_close(normed, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [1, 2, 127, 128, 129, 1_000, 8_192])
def test_drawn_tokens_and_their_logprobs_are_torchs(dtype: torch.dtype, vocabulary: int) -> None:
    torch.manual_seed(2)
    logits = (3 * torch.randn(400, vocabulary)).to(dtype)
    numbers = torch.rand(400, dtype=torch.float64)
    tokens, logprobs = kernels.draw(logits, numbers)
    expected, expected_logprobs = _draw_chunk(logits, numbers, None, [])
    # A number may lie within rounding of the border between two tokens.
    assert (tokens == expected).float().mean() > 0.99
    same = tokens == expected
    torch.testing.assert_close(logprobs[same], expected_logprobs[same], atol=1e-5, rtol=1e-5)


def test_tokens_are_drawn_as_often_as_they_are_probable() -> None:
    logits = torch.tensor([0.5, 0.25, 0.0, 0.125, 0.125]).log().expand(100_000, 5)
    numbers = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    tokens, logprobs = kernels.draw(logits, numbers)
    assert torch.bincount(tokens, minlength=5).tolist() == [50_000, 25_000, 0, 12_500, 12_500]
    torch.testing.assert_close(logprobs, logits[0][tokens], atol=1e-6, rtol=0)


@pytest.mark.parametrize("number", [0.0, 0.3, 1 - 2**-53])
def test_an_impossible_token_is_never_drawn(number: float) -> None:
    for possible in (0, 1, 127, 128, 300, 511):
        logits = torch.full((1, 512), float("-inf"))
        logits[0, possible] = -1_000.0
        tokens, logprobs = kernels.draw(logits, torch.tensor([number], dtype=torch.float64))
        assert tokens.item() == possible
        assert logprobs.item() == 0


def test_logits_that_are_not_numbers_do_not_lead_out_of_the_vocabulary() -> None:
    for bad in (float("nan"), float("inf"), float("-inf")):
        tokens, _ = kernels.draw(torch.full((3, 200), bad), torch.rand(3, dtype=torch.float64))
        assert all(0 <= token < 200 for token in tokens.tolist())


@pytest.fixture
def fresh_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The cache folder of a user who has none yet; what this process has loaded comes back afterwards."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kernels, "_library", kernels._library.__wrapped__)
    return tmp_path / "cache" / "heedful"


def test_it_is_compiled_once_and_nobody_else_can_write_there(fresh_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.usable(torch.zeros(1))
    assert len(list(fresh_library.iterdir())) == 1
    assert stat.S_IMODE(fresh_library.stat().st_mode) == 0o700

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr("subprocess.run", refuse)
    assert kernels.usable(torch.zeros(1))


def test_a_user_without_a_home_folder_has_them_too(fresh_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: str(fresh_library.parent))
    fresh_library.parent.mkdir()
    assert kernels.usable(torch.zeros(1))
    assert len(list(fresh_library.parent.glob("kernels-*.so"))) == 1


@pytest.mark.parametrize("trouble", ["no compiler", "compiler fails", "not a library"])
def test_without_a_working_compiler_torch_does_the_work(
    trouble: str, fresh_library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if trouble == "no compiler":
        monkeypatch.setattr(shutil, "which", lambda _: None)
    else:
        compiler = tmp_path / "c++"
        compiler.write_text("#!/bin/sh\nexit 1\n" if trouble == "compiler fails" else "#!/bin/sh\nexit 0\n")
        compiler.chmod(0o755)
        monkeypatch.setattr(shutil, "which", lambda _: str(compiler))
    assert not kernels.usable(torch.zeros(1))
    left = list(fresh_library.iterdir()) if fresh_library.is_dir() else []
    assert len(left) == (trouble == "not a library")
    [generation] = generate(tiny_gpt2(1), [[1, 2, 3]], Sampling(max_tokens=5), [1])
    assert len(generation.tokens) == 5


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_the_same_texts_with_and_without(make: object, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(3)  # pyright: ignore
    prompts = [[5, 6, 7], [8], list(range(1, 40))]
    with_them = generate(model, prompts, Sampling(max_tokens=20), [1, 2, 3])
    monkeypatch.setattr(kernels, "usable", lambda _: False)
    without = generate(model, prompts, Sampling(max_tokens=20), [1, 2, 3])
    assert [g.tokens for g in with_them] == [g.tokens for g in without]
    for ours, theirs in zip(with_them, without, strict=True):
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)


@pytest.mark.parametrize("vocabulary", [1, 2, 127, 128, 129, 1_000, 8_192])
@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_statistics_of_tokens_are_torchs(vocabulary: int, scale: float) -> None:
    torch.manual_seed(3)
    logits = (3 * torch.randn(50, vocabulary)).to(torch.bfloat16)
    tokens = torch.randint(vocabulary, (50,))
    expected = torch.log_softmax(scale * logits.double(), -1)
    chosen = expected.gather(1, tokens[:, None])[:, 0]
    logprobs, entropies = kernels.token_statistics(logits, tokens, scale)
    torch.testing.assert_close(logprobs, chosen.float(), atol=2e-6, rtol=2e-6)
    torch.testing.assert_close(entropies, -(expected.exp() * expected).sum(-1).float(), atol=5e-6, rtol=5e-6)
    less = expected.exp() - F.one_hot(tokens, vocabulary)
    torch.testing.assert_close(kernels.softmax_less_token_(logits, tokens, scale).double(), less, atol=1e-6, rtol=2**-8)


def test_statistics_of_impossible_tokens_and_of_what_is_not_a_number() -> None:
    logits = torch.tensor([[0.0, float("-inf"), 0.0], [0.0, float("nan"), 0.0]], dtype=torch.bfloat16)
    logprobs, entropies = kernels.token_statistics(logits, torch.tensor([1, 0]), 1.0)
    assert logprobs[0] == float("-inf")
    assert entropies[0].item() == pytest.approx(math.log(2), abs=1e-6)
    assert logprobs[1].isnan()
    assert entropies[1].isnan()


def test_logprobs_in_bf16_and_their_gradients_are_those_without_the_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(4)
    hidden, weight = torch.randn(700, 32).to(torch.bfloat16), torch.randn(500, 32).to(torch.bfloat16)
    tokens, outer = torch.randint(500, (700,)), torch.randn(700)

    def run() -> list[Tensor]:
        leaves = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
        logprobs, entropies = chunked_token_logprobs_and_entropy(leaves[0], leaves[1], tokens, temperature=0.7)
        (logprobs * outer).sum().backward()
        return [logprobs.detach(), entropies, *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    with_them = run()
    monkeypatch.setattr(kernels, "usable", lambda _: False)
    for ours, theirs in zip(with_them, run(), strict=True):
        error = (ours.float() - theirs.float()).norm() / theirs.float().norm()
        assert error < 5e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "key_heads", "width"), [(4, 4, 32), (4, 2, 64), (2, 1, 8), (3, 3, 20), (1, 1, 128)])
@pytest.mark.parametrize("window", [None, 1, 7])
@pytest.mark.parametrize("shared", [False, True])
def test_attention_of_packed_rows_and_its_gradients_are_those_of_dense_blocks(
    dtype: torch.dtype, heads: int, key_heads: int, width: int, window: int | None, shared: bool
) -> None:
    torch.manual_seed(5)
    prompts = [[1] * n for n in (3, 90, 1, 33, 40)]
    responses = [[[2] * n for n in lengths] for lengths in ((1,), (60, 1, 7), (34,) * 9, (2, 2), (65, 5))]
    batch = pack_shared(prompts, responses) if shared else pack(prompts, [group[0] for group in responses])
    assert isinstance(batch.layout, RangesLayout)
    layout, blocks = batch.layout, batch.layout.blocks
    if window is not None:
        layout, blocks = layout.within(window), blocks.within(window)
    tokens, real = len(batch.tokens), int(batch.last.max()) + 1
    # Slices whose rows lie apart, as a model's products have them.
    joined = torch.randn(tokens, heads + 2 * key_heads, width).to(dtype)
    inputs = [part.detach().requires_grad_() for part in joined.split([heads, key_heads, key_heads], 1)]
    exact = [part.detach().float().requires_grad_() for part in inputs]  # torch's bf16 scores are coarser than ours
    gradient = torch.randn(tokens, heads, width).to(dtype)
    gradient[real:] = 0  # what fills the row up is never read
    found = layout.attend(0, inputs[0], inputs[1], inputs[2], 0.3)
    expected = blocks.attend(0, exact[0], exact[1], exact[2], 0.3)
    found.backward(gradient)
    expected.backward(gradient.float())
    assert (found[real:] == 0).all()
    for ours, theirs in zip([found, *(i.grad for i in inputs)], [expected, *(e.grad for e in exact)], strict=True):
        assert ours is not None
        assert theirs is not None
        torch.testing.assert_close(ours[:real].float(), theirs[:real], atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_attention_of_packed_rows_has_the_same_bits_whatever_else_is_in_the_row_and_on_any_number_of_threads() -> None:
    torch.manual_seed(6)
    pairs = [([1] * 20, [2] * 9), ([1] * 70, [2] * 50), ([1] * 5, [2] * 4)]

    def attended(members: list[int]) -> list[Tensor]:
        batch = pack([pairs[i][0] for i in members], [pairs[i][1] for i in members])
        rows = torch.cat([everything[i] for i in members])
        rows = F.pad(rows, (0, 0, 0, 0, 0, len(batch.tokens) - len(rows)))
        query, key, value = rows.split([4, 2, 2], 1)
        output = batch.layout.attend(0, query, key, value, 0.2)
        return list(output[: int(batch.last.max()) + 1].split([len(everything[i]) for i in members]))

    everything = [torch.randn(len(p) + len(r), 8, 32).to(torch.bfloat16) for p, r in pairs]
    together = attended([0, 1, 2])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for i in range(3):
            assert torch.equal(attended([i])[0], together[i])
        assert all(torch.equal(a, b) for a, b in zip(attended([0, 1, 2]), together, strict=True))
    finally:
        torch.set_num_threads(threads)


ACTIVATIONS = {"none": lambda x: x, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "relu": F.relu}
PACKED = [dtype for dtype in (torch.float32, torch.bfloat16) if kernels.can_pack(torch.zeros(2, 2, dtype=dtype))]


@pytest.mark.skipif(not PACKED, reason="a processor without the instructions of packed products")
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("inputs", "outputs"), [(2, 1), (48, 96), (50, 33), (160, 31), (512, 70)])
@pytest.mark.parametrize("dtype", PACKED)
def test_packed_products_are_torchs(dtype: torch.dtype, inputs: int, outputs: int, activation: str) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(outputs, inputs).to(dtype), torch.randn(outputs).to(dtype)
    packed = kernels.pack_weight(weight)
    for count in (1, 7, 12, 13, 25, 300):
        rows = torch.randn(count, 3 * inputs).to(dtype)[:, inputs : 2 * inputs]  # rows that lie apart
        for addend in (None, bias):
            exact = rows.double() @ weight.double().T + (0 if addend is None else addend.double())
            found = kernels.packed_product(rows, packed, outputs, addend, activation)
            scale = float(exact.abs().max())
            tolerance = scale * (1e-6 if dtype == torch.float32 else 4e-3)
            torch.testing.assert_close(found.double(), ACTIVATIONS[activation](exact), atol=tolerance, rtol=4e-3)


@pytest.mark.skipif(not PACKED, reason="a processor without the instructions of packed products")
@pytest.mark.parametrize("dtype", PACKED)
def test_a_rows_packed_product_has_the_same_bits_whatever_the_number_of_rows_and_of_threads(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(200, 1_024).to(dtype), torch.randn(200).to(dtype)
    packed, rows = kernels.pack_weight(weight), torch.randn(400, 1_024).to(dtype)
    whole = kernels.packed_product(rows, packed, 200, bias, "gelu")
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 11, 12, 13, 131):
            torch.set_num_threads(1 + count % 2)
            some = kernels.packed_product(rows[-count:], packed, 200, bias, "gelu")
            assert torch.equal(some, whole[-count:])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(not PACKED, reason="a processor without the instructions of packed products")
def test_activations_inside_a_packed_product_are_exact_far_from_zero_too() -> None:
    values = torch.linspace(-30, 30, 60_001)[:, None]
    identity = kernels.pack_weight(torch.ones(1, 1))
    for name, activation in ACTIVATIONS.items():
        found = kernels.packed_product(values, identity, 1, None, name)
        torch.testing.assert_close(found.double(), activation(values.double()), atol=2e-6, rtol=1e-6)


def test_what_no_packed_product_multiplies_is_told_apart() -> None:
    assert not kernels.can_pack(torch.zeros(4, 3, dtype=torch.bfloat16))  # pairs of inputs
    assert not kernels.can_pack(torch.zeros(4, 4, dtype=torch.float64))
    assert not kernels.can_pack(torch.zeros(4, 4, device="meta"))
