"""Routers and the layer: the rules they follow, the optima they reach, and what they refuse."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from pytest_physics.errors import ConfigurationError
from pytest_physics.metrology import routing
from pytest_physics.workloads import moe

torch = pytest.importorskip("torch")
COSTS = torch.tensor([0.5] * 6 + [2.0] * 2)
N = 8


def logits_of(seed=0, tokens=96, points=1, experts=N):
    """Seeded logits of the spread that a fresh gate has."""
    return 0.6 * torch.randn(points, tokens, experts, generator=torch.Generator().manual_seed(seed))


def routed(router, z, costs=COSTS):
    """One batch."""
    return router.route(z, costs.expand(*z.shape[:-2], costs.shape[-1]))


@pytest.mark.parametrize("kind", moe.ROUTERS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("per_joule", [0.0, 0.5])
def test_every_router_conserves_slots(kind, per_joule):
    """Tokens × k slots, whatever the rule; all but expert choice give each token exactly k."""
    router = kind(k=2, per_joule=per_joule)
    for seed in range(3):
        found = routed(router, logits_of(seed, points=2))
        router.observe(found.loads, COSTS.expand(2, N))
        assert (found.loads.sum(-1) == 2 * 96).all()
        if kind is not moe.ExpertChoice:
            assert (found.chosen.sum(-1) == 2).all()
        taken = found.chosen.any(-1)
        assert torch.allclose(found.weights.sum(-1)[taken], torch.ones(()))


@given(
    costs=st.lists(st.floats(0.01, 5), min_size=3, max_size=8), beta=st.floats(0, 8), k=st.integers(1, 3),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_target_loads_are_the_capped_gibbs_loads(costs, beta, k):
    """The torch form agrees with metrology's, with at most 1/k for an expert."""
    found = moe.gibbs_loads(torch.tensor(costs, dtype=torch.float64), torch.tensor(beta, dtype=torch.float64), k=k)
    assert found.numpy() == pytest.approx(routing.gibbs(costs, beta, cap=routing.share_cap(len(costs), top_k=k)), abs=1e-9)


@given(shares=st.lists(st.floats(0.01, 1), min_size=2, max_size=8).map(lambda x: np.array(x) / sum(x)), tokens=st.integers(4, 200))
@settings(max_examples=80, deadline=None)
def test_whole_loads_add_up_and_stay_near_their_shares(shares, tokens):
    """Largest remainders: the sum is exact and nobody is off by a whole slot."""
    counts = moe.whole_loads(torch.tensor(shares), slots=tokens, tokens=tokens)
    assert int(counts.sum()) == tokens
    assert np.abs(counts.numpy() - shares * tokens).max() < 1


def test_a_price_of_nothing_is_no_control():
    """λ = 0 chooses what top-k of the logits chooses."""
    z = logits_of()
    assert (routed(moe.PenalisedTopK(k=2), z).chosen == routed(moe.TopK(k=2), z).chosen).all()


def test_the_price_is_optimal_for_score_against_energy():
    """No choice of two experts has a larger sum of z − λE, by trying all."""
    z, per_joule = logits_of(tokens=20)[0], 0.4
    chosen = routed(moe.PenalisedTopK(k=2, per_joule=per_joule), z[None]).chosen[0]
    value = z - per_joule * COSTS
    best = torch.stack([value[:, list(pair)].sum(-1) for pair in itertools.combinations(range(N), 2)]).max(0).values
    assert (value * chosen).sum(-1).numpy() == pytest.approx(best.numpy(), abs=1e-6)


def test_the_price_does_not_depend_on_the_batch():
    """Stateless: half the batch gives the same choices for its tokens."""
    z = logits_of()
    whole, half = (routed(moe.PenalisedTopK(k=2, per_joule=0.3), x).chosen for x in (z, z[:, :48]))
    assert (whole[:, :48] == half).all()


def test_expert_choice_hits_its_loads_exactly():
    """C_e = k·T·p*_e, rounded, whatever the gate says."""
    router = moe.ExpertChoice(k=2, per_joule=0.5)
    found = routed(router, logits_of(tokens=500))
    target = moe.whole_loads(router.target(COSTS), slots=1000, tokens=500)
    assert found.loads[0].tolist() == target.tolist()
    assert found.loads[0].numpy() / 1000 == pytest.approx(routing.gibbs(COSTS.numpy(), 0.5), abs=1e-3)


def test_sinkhorn_is_the_linear_programme_at_its_own_loads():
    """Top-k of z plus prices has the best score of all assignments with the same loads: BASE's programme, by its duality."""
    z = logits_of(tokens=30, experts=4)
    found = routed(moe.Sinkhorn(k=2, per_joule=0.5), z, torch.tensor([0.5, 0.5, 1.0, 2.0])).chosen[0].numpy()
    scores = z[0].numpy().astype(float)
    rows = np.kron(np.eye(30), np.ones(4))
    columns = np.kron(np.ones(30), np.eye(4))
    best = optimize.linprog(
        -scores.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([np.full(30, 2), found.sum(0)]), bounds=(0, 1)
    )
    assert (scores * found).sum() == pytest.approx(-best.fun, abs=1e-5)


def test_sinkhorn_reaches_its_target_loads():
    """Within the rounding of its temperature: two per cent of the slots."""
    router = moe.Sinkhorn(k=2, per_joule=0.5)
    for seed in range(4):
        loads = routed(router, logits_of(seed, tokens=1000)).loads[0] / 2000
    assert loads.numpy() == pytest.approx(router.target(COSTS).numpy(), abs=0.02)


def test_the_bias_moves_by_its_gain_towards_the_target():
    """DeepSeek's rule: b_i += u·sign(p*_i − f_i)."""
    router = moe.LossFreeBias(k=2, gain=0.01)
    loads = torch.tensor([10.0, 20, 30, 0, 10, 10, 10, 10])
    router.observe(loads, COSTS)
    assert router.bias.tolist() == pytest.approx([0.01, -0.01, -0.01, 0.01, 0.01, 0.01, 0.01, 0.01])


def test_the_auxiliary_loss_is_switch_for_uniform_targets():
    """α·N·Σ f_i·P_i, and at λ > 0 its gradient vanishes where f = P = p*."""
    z = logits_of()
    router = moe.AuxiliaryLoss(k=2, alpha=0.01)
    found = routed(router, z)
    shares, probabilities = found.loads / found.loads.sum(), z.softmax(-1).mean(-2)
    assert float(router.loss(z, found, COSTS, z)) == pytest.approx(0.01 * N * float((shares * probabilities).sum()), rel=1e-5)
    steered = moe.AuxiliaryLoss(k=2, per_joule=0.5)
    target = moe.gibbs_loads(COSTS, steered.per_joule, k=2)
    at = target.log().expand(1, 10, N).clone().requires_grad_()
    fixed = type("Loads", (), {"loads": target[None]})
    (gradient,) = torch.autograd.grad(steered.loss(at, fixed, COSTS, at).sum(), at)
    assert float(gradient.abs().max()) < 1e-7


def test_test_time_training_converges_to_the_price():
    """Gradient descent on λ·E_P[E] + KL(P ‖ P0) ends at P ∝ P0·exp(−λE), and moves nothing at λ = 0."""
    reference = logits_of(tokens=1)
    router, z = moe.TestTimeTraining(k=2, per_joule=0.8), reference.clone()
    still = moe.TestTimeTraining(k=2, per_joule=0.0)
    for _ in range(3000):
        z.requires_grad_()
        (gradient,) = torch.autograd.grad(router.loss(z, None, COSTS, reference).sum(), z)
        z = (z - 1.0 * gradient).detach()
    assert z.softmax(-1).numpy() == pytest.approx((reference - 0.8 * COSTS).softmax(-1).numpy(), abs=1e-3)
    start = reference.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(still.loss(start, None, COSTS, reference).sum(), start)
    assert float(gradient.abs().max()) < 1e-7


def test_the_stable_step_follows_the_inputs():
    """2/L with L = ½·λ_max of the second moments: from the eigenvalues; inputs ten times as large allow about a hundredth."""
    x = torch.randn(400, 6, generator=torch.Generator().manual_seed(3))
    extended = torch.cat([x, torch.ones(400, 1)], -1)
    largest = float(torch.linalg.eigvalsh(extended.T @ extended / 400)[-1])
    assert float(moe.largest_stable_step(x)) == pytest.approx(4 / largest, rel=1e-4)
    assert float(moe.largest_stable_step(10 * x)) == pytest.approx(4 / largest / 100, rel=0.2)


def test_the_published_router_is_the_published_rule():
    """No penalty in the first batch; then λ·0.001·(energy of the last batch)·c, c = 10 for experts 0 to 3."""
    router = moe.PublishedRouter(k=2, per_joule=0.1)
    z = logits_of(tokens=128)
    first = routed(router, z)
    assert (first.chosen == routed(moe.TopK(k=2), z).chosen).all()
    router.observe(first.loads, COSTS[None])
    energy = float((first.loads * COSTS).sum())
    penalised = z - 0.1 * 0.001 * energy * torch.tensor([10.0] * 4 + [1.0] * 4)
    assert (routed(router, z).chosen == moe.top_k(penalised, 2)).all()


@pytest.mark.parametrize("kind", moe.ROUTERS, ids=lambda kind: kind.name)
def test_logits_that_are_not_finite_are_refused(kind):
    """A NaN would be sent anywhere by top-k."""
    z = logits_of()
    z[0, 3, 1] = math.nan
    with pytest.raises(ValueError, match=r"1 tokens have logits that are not finite.*overflow"):
        routed(kind(k=2), z)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: moe.TopK(k=0), "'k' must be >= 1"),
        (lambda: routed(moe.TopK(k=9), logits_of()), "k = 9 distinct experts per token need at least 9 experts"),
        (lambda: moe.PenalisedTopK(k=2, per_joule=-0.1), "seeks the costly experts"),
        (lambda: moe.PenalisedTopK(k=2, per_joule=math.nan), "finite"),
        (lambda: moe.PenalisedTopK(k=2, per_joule="0.1 1/mJ"), "a number in 1/J"),
        (lambda: routed(moe.PenalisedTopK(k=2, per_joule=100.0), logits_of()), "λ for millijoules is a thousand times too large"),
        (lambda: routed(moe.PenalisedTopK(k=2), logits_of(), COSTS[:7]), "7 energies were given for 8 experts"),
        (lambda: moe.within_capacity(torch.ones(4, 8) > 0, torch.ones(4, 8), k=2, capacity_factor=0.9), "'capacity_factor' must be >= 1"),
        (lambda: routed(moe.PublishedRouter(k=2), logits_of(experts=4), COSTS[:4]), "costs for 8 experts"),
        (lambda: moe.router_named("penalized"), "choose one of 'uniform'"),
        (lambda: moe.TestTimeTraining(k=2, learning_rate=0), "'learning_rate' must be > 0"),
    ],
)
def test_what_no_router_can_do_is_refused(make, message):
    """One line that says what was wrong and what to do."""
    with pytest.raises(ConfigurationError, match=message):
        make()


@pytest.mark.parametrize("costs", [torch.tensor([math.nan] + [1.0] * 7), torch.tensor([-1.0] + [1.0] * 7)])
def test_missing_and_negative_costs_are_refused(costs):
    """They would steer towards their expert."""
    with pytest.raises(ValueError, match="finite and >= 0 J"):
        routed(moe.PenalisedTopK(k=2, per_joule=0.1), logits_of(), costs)


def test_a_capacity_is_kept_and_the_best_stay():
    """⌈CF·k·T/N⌉ tokens of the highest score."""
    z = logits_of(tokens=64)[0]
    chosen = torch.zeros(64, N, dtype=torch.bool)
    chosen[:, 0] = chosen[:, 1] = True
    kept = moe.within_capacity(chosen, z, k=2, capacity_factor=1.25)
    assert kept.sum(0).tolist() == [20, 20, 0, 0, 0, 0, 0, 0]
    assert z[kept[:, 0], 0].min() > z[~kept[:, 0], 0].max()


# --- the layer ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def layer():
    """Eight experts, two per token."""
    from pytest_physics.workloads.moe_modules import MoELayer

    torch.manual_seed(0)
    return MoELayer(12, 20, N, router=moe.PenalisedTopK(k=2, per_joule=0.2), energies_j=COSTS)


def test_the_layer_is_the_weighted_sum_of_its_experts(layer):
    """Sparse dispatch gives what running every expert on every token would."""
    x = torch.randn(3, 5, 12)
    answer = layer(x)
    hidden = torch.nn.functional.gelu(torch.einsum("btf,efh->bteh", x, layer.into))
    every = torch.einsum("bteh,ehf->btef", hidden, layer.out)
    weights = layer.traffic.routing.weights.reshape(3, 5, N)
    assert torch.allclose(answer, (weights[..., None] * every).sum(-2), atol=1e-5)


def test_the_gate_learns_through_the_weights(layer):
    """The loss of the text reaches the gate."""
    layer(torch.randn(40, 12)).square().sum().backward()
    assert float(layer.gate.weight.grad.abs().max()) > 0


def test_dropped_slots_are_counted(layer):
    """Capacity 1 drops what an uneven gate sends too much; kept and dropped add up to tokens × k."""
    layer.capacity_factor = 1.0
    layer(torch.randn(64, 12))
    assert layer.traffic.dropped > 0
    assert int(layer.traffic.routing.loads.sum()) + layer.traffic.dropped == 128


@pytest.mark.parametrize(("k", "capacity", "message"), [(9, None, "k = 9"), (2, 0.5, "'capacity_factor' must be >= 1")])
def test_an_impossible_layer_is_refused(k, capacity, message):
    """More experts per token than there are, or a capacity that must drop."""
    from pytest_physics.workloads.moe_modules import MoELayer

    with pytest.raises(ConfigurationError, match=message):
        MoELayer(12, 20, N, router=moe.TopK(k=k), energies_j=COSTS, capacity_factor=capacity)
