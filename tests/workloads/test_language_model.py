"""The GPT-2 workload: phases apart, tokens counted, the same every time."""

from __future__ import annotations

import pytest

from pytest_physics.errors import ConfigurationError
from pytest_physics.workloads.base import Workload
from pytest_physics.workloads.language_model import SHAPES, LanguageModel

REASON = "torch or transformers is not installed (extra 'bench')"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)


def _config(**changes) -> transformers.GPT2Config:
    """Tiny, with weights so large that greedy decoding does not repeat one token."""
    shape = {"n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": 32, "n_positions": 24, "initializer_range": 1.0}
    return transformers.GPT2Config(**shape | {"bos_token_id": 0, "eos_token_id": 0} | changes)


def _model(config=None, **options) -> LanguageModel:
    return LanguageModel(config or _config(), threads=1, **options)


@pytest.fixture
def model() -> LanguageModel:
    return _model()


@pytest.fixture
def passes(model) -> list[tuple[tuple[int, int], int, int]]:
    """Every forward pass: shape of the input, length of the cache before it, threads in force."""
    seen = []

    def record(_module, _args, kwargs):
        seen.append((tuple(kwargs["input_ids"].shape), kwargs["past_key_values"].get_seq_length(), torch.get_num_threads()))

    model.model.register_forward_pre_hook(record, with_kwargs=True)
    return seen


def _generated(model: LanguageModel, batch: int = 2, context: int = 6, tokens: int = 8) -> tuple[tuple[int, ...], ...]:
    model.prefill(batch, context)
    model.decode(batch, tokens)
    return model.generated


def test_it_is_a_workload(model):
    """Experiments take it for any workload: its parts beyond the protocol have defaults."""
    assert isinstance(model, Workload)


# --- phases ----------------------------------------------------------------------------------------------------------


def test_prefill_is_one_pass_over_the_whole_prompt(model, passes):
    """No part of decoding runs in prefill."""
    model.prefill(3, 5)
    assert [(shape, cached) for shape, cached, _ in passes] == [((3, 5), 0)]
    assert (model.work.phase, model.work.total_tokens, model.work.forward_passes) == ("prefill", 15, 1)


def test_decode_is_exactly_one_single_token_pass_per_token(model, passes):
    """No part of prefill runs in decode; each pass appends one token per sequence."""
    model.prefill(3, 5)
    passes.clear()
    model.decode(3, 4)
    assert [(shape, cached) for shape, cached, _ in passes] == [((3, 1), 5), ((3, 1), 6), ((3, 1), 7), ((3, 1), 8)]
    assert (model.work.phase, model.work.context_tokens, model.work.total_tokens) == ("decode", 5, 12)
    assert [len(row) for row in model.generated] == [4, 4, 4]


def test_every_decode_starts_from_the_same_context(model, passes):
    """Repetitions of one measurement must do the same work, not ever longer attention."""
    first = _generated(model)
    passes.clear()
    model.decode(2, 8)
    assert passes[0][1] == 6
    assert model.generated == first


def test_greedy_decoding_agrees_with_transformers(model):
    """Cached single steps give the tokens that ``generate`` gives: the first of them is prefill's."""
    tokens = _generated(model, batch=2, context=6, tokens=8)
    reference = model.model.generate(
        model._prompt(2, 6), attention_mask=torch.ones(2, 6, dtype=torch.long), max_new_tokens=9, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    assert [list(row) for row in tokens] == reference[:, 7:].tolist()
    assert len(set(tokens[0])) > 2  # otherwise this test would say nothing


@pytest.mark.parametrize(("prepared", "message"), [(None, "none is kept"), (2, "the kept one has batch 2, 5 tokens")])
def test_decode_without_its_context_is_refused(model, passes, prepared, message):
    """A hidden prefill would be booked as decoding; the message says what to call."""
    if prepared:
        model.prefill(prepared, 5)
        passes.clear()
    with pytest.raises(ConfigurationError, match=rf"{message}.*prepare\(3, context\)"):
        model.decode(3, 2)
    assert passes == []


def test_prepare_runs_a_prompt_only_where_none_is_kept(model, passes):
    """Preparing twice costs once; another batch or context is prepared anew."""
    for batch, context in [(2, 4), (2, 4), (3, 4), (3, 5)]:
        model.prepare(batch, context)
    assert [shape for shape, *_ in passes] == [(2, 4), (3, 4), (3, 5)]
    model.decode(3, 2)


def test_the_context_limit_is_reached_and_not_passed(model):
    """Boundary pair on both phases: 24 positions."""
    model.prefill(1, 24)
    with pytest.raises(ConfigurationError, match=r"0 \+ 25 tokens do not fit into the model's 24 positions"):
        model.prefill(1, 25)
    model.prefill(1, 20)
    model.decode(1, 4)
    with pytest.raises(ConfigurationError, match=r"20 \+ 5 tokens"):
        model.decode(1, 5)


@pytest.mark.parametrize(("batch", "tokens"), [(0, 1), (1, 0), (-1, 1)])
def test_phases_of_nothing_are_refused(model, batch, tokens):
    """Zero tokens have no energy per token."""
    with pytest.raises(ConfigurationError, match="must be >= 1"):
        model.prefill(batch, tokens)
    model.prefill(1, 1)
    with pytest.raises(ConfigurationError):
        model.decode(batch, tokens)


def test_a_failed_prefill_leaves_no_context(model, monkeypatch):
    """After an out-of-memory error the old cache is gone, and decode says so instead of using it."""
    model.prefill(2, 4)

    def fail(*_args):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(model, "_forward", fail)
    with pytest.raises(torch.OutOfMemoryError):
        model.prefill(2, 8)
    with pytest.raises(ConfigurationError, match="none is kept"):
        model.decode(2, 2)


def test_a_miscount_is_noticed(model, monkeypatch):
    """The cache's length is the witness: a model that runs a step twice is caught."""
    model.prefill(1, 4)
    once = model._forward
    monkeypatch.setattr(model, "_forward", lambda tokens, cache: (once(tokens, cache), once(tokens, cache))[1])
    with pytest.raises(RuntimeError, match="holds 8 tokens per sequence after the phase, expected 6"):
        model.decode(1, 2)
    assert model.work.phase == "prefill"


def test_warm_up_runs_both_phases_and_leaves_nothing_behind(model, passes):
    """It really runs the model, at the shape asked for."""
    model.warm_up(batch=2, context=3, tokens=2)
    assert [shape for shape, *_ in passes] == [(2, 3), (2, 1), (2, 1)] * 2
    assert (model.work, model.generated) == (None, ())


# --- determinism and side effects ------------------------------------------------------------------------------------


def test_the_seed_decides_the_tokens():
    """The same seed gives the same tokens, another seed others."""
    assert _generated(_model(seed=3)) == _generated(_model(seed=3))
    assert _generated(_model(seed=3)) != _generated(_model(seed=4))


def test_a_prompt_does_not_depend_on_its_neighbours(model):
    """Sequence 0 is the same alone and in a batch, so batch sizes are compared on equal work."""
    assert torch.equal(model._prompt(1, 9)[0], model._prompt(4, 9)[0])
    assert not torch.equal(model._prompt(4, 9)[0], model._prompt(4, 9)[1])


def test_the_users_random_numbers_are_left_alone():
    """Building and running a model draws nothing from the global generator."""
    before = torch.random.get_rng_state()
    _generated(_model())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_phases_run_with_the_threads_stated_and_put_back_the_users(model, passes):
    """Thread count is part of what is measured, and a setting of the whole process."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        model.prefill(1, 4)
        model.decode(1, 2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert [threads for *_, threads in passes] == [1, 1, 1]
    assert model.describe()["threads"] == "1"


def test_the_users_configuration_is_not_changed():
    """A config object may serve several models."""
    config = _config()
    before = config.to_dict()
    _model(config, attention="eager")
    assert config.to_dict() == before


# --- shapes and description ------------------------------------------------------------------------------------------


def test_small_is_small():
    """2 layers, 64 wide, vocabulary 256: 182 016 weights, counted by hand."""
    small = LanguageModel("small", threads=1)
    per_layer = 12 * 64**2 + 13 * 64
    assert small.parameters == (256 + 1024) * 64 + 2 * per_layer + 2 * 64 == 182_016
    assert "2 layers, 64 wide, 2 heads, vocabulary 256" in small.describe()["architecture"]


def test_gpt2_has_the_published_number_of_weights():
    """124 439 808, the smallest published GPT-2; built without memory."""
    with torch.device("meta"):
        built = transformers.AutoModelForCausalLM.from_config(transformers.GPT2Config(**SHAPES["gpt2"]))
    assert sum(p.numel() for p in built.parameters()) == 124_439_808


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_description_states_what_is_in_use(attention):
    """Attention and type are read from the model, not from the arguments."""
    model = _model(dtype="bfloat16", attention=attention, seed=7)
    told = model.describe()
    assert (told["attention"], told["dtype"], told["device"], told["seed"]) == (attention, "bfloat16", "cpu", "7")
    assert told["parameters"] == str(model.parameters)
    assert (told["torch"], told["transformers"]) == (torch.__version__, transformers.__version__)
    assert next(model.model.parameters()).dtype is torch.bfloat16


def test_a_saved_model_runs_from_its_directory(tmp_path, model):
    """Weights come from the directory, whatever the seed; the prompt follows the seed."""
    model.model.save_pretrained(tmp_path)
    loaded = _model(tmp_path)
    assert _generated(loaded) == _generated(model)
    assert (loaded.describe()["weights"], model.describe()["weights"]) == ("from the directory", "random")


@pytest.mark.parametrize("shape", ["gpt3", "no/such/directory"])
def test_an_unknown_shape_names_the_known_ones(shape):
    """Neither a typo nor a repository's name may reach for the network."""
    with pytest.raises(ConfigurationError, match=r"small, gpt2, a GPT2Config, or a directory.*save_pretrained"):
        LanguageModel(shape, threads=1)


def test_only_a_gpt2_configuration_is_a_configuration():
    """Another model's configuration would be described as what it is not."""
    with pytest.raises(ConfigurationError, match="got dict"):
        LanguageModel({"n_layer": 2}, threads=1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_phases_run_on_a_real_gpu():
    """Same counts on CUDA; both phases end synchronised."""
    model = LanguageModel(_config(), device="cuda:0")
    assert [len(row) for row in _generated(model)] == [8, 8]
    assert torch.cuda.current_stream().query()
