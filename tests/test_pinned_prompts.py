"""The bundled prior does with the pinned prompts what it is known to do, no worse."""

from __future__ import annotations

from invert3d_ns.metrics.judge import ASPECTS, Judge
from invert3d_ns.metrics.pinned import FINGERPRINT, PASSES, SLACK, count_passes, pinned_prompts
from invert3d_ns.prior.checkpoints import load_prior
from invert3d_ns.world.shapes import FRONTED
from invert3d_ns.world.vocabulary import PATTERNS, STYLES


def test_pinned_prompts_are_held_out_and_ask_for_everything() -> None:
    cases = pinned_prompts()
    assert len(set(cases)) == 24 and all(case.held_out for case in cases)
    assert {case.style for case in cases} == STYLES.keys() and {case.pattern for case in cases} == PATTERNS.keys()
    assert 4 * sum(case.name in FRONTED for case in cases) == PASSES["azimuth"][1]


def test_the_bundled_prior_passes_as_often_as_it_did() -> None:
    prior = load_prior("bundled")
    assert prior.info.fingerprint.startswith(FINGERPRINT)
    found = count_passes(prior, Judge.load())
    assert found.keys() == PASSES.keys() == set(ASPECTS)
    assert {key: judged for key, (_, judged) in found.items()} == {key: judged for key, (_, judged) in PASSES.items()}
    worse = {key: (found[key], PASSES[key]) for key in PASSES if found[key][0] < PASSES[key][0] - SLACK}
    assert not worse
