"""The stages' logic on a real ledger, without a Prefect server: task functions by `.fn`."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace

import numpy as np
import pytest

from heliodor.cluster.settings import Resources
from heliodor.core.campaign import parse_campaign
from heliodor.core.choices.references import FileChoice
from heliodor.core.crystal import Crystal
from heliodor.core.database import Database
from heliodor.core.errors import InputError
from heliodor.core.ledger import Ledger
from heliodor.core.protocols import ReferenceInfo
from heliodor.core.records import (
    Candidate,
    Conditions,
    Failure,
    Origin,
    Outcome,
    Prepared,
    Reason,
    Relaxed,
    Stage,
    Status,
    Verdict,
)
from heliodor.flows.discover import refuse_changed_inputs
from heliodor.flows.screen import ScreenOptions, screening
from heliodor.tasks.context import Context, InOrder
from heliodor.tasks.generate import generate
from heliodor.tasks.relax import relax, relaxed_of
from heliodor.tasks.report_funnel import funnel
from heliodor.tasks.screen import conclude, screen, screened_crystals
from heliodor.tasks.table import count, records, row
from heliodor.validators.uniqueness import Uniqueness
from heliodor.validators.validity import Validity

P = ("p", {})


def rock_salt(a: float, cation: int = 12, anion: int = 8) -> Crystal:
    lattice = a / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    return Crystal(lattice, [[0, 0, 0], [0.5, 0.5, 0.5]], [cation, anion])


MGO, MGO_WIDER, CAO, NACL = (
    rock_salt(4.21),
    rock_salt(4.3),
    rock_salt(4.81, 20),
    rock_salt(5.64, 11, 17),
)


class Listed:
    """A generator that proposes a list; an exception in it is raised, as a faulty plugin would."""

    name = "listed"

    def __init__(self, items):
        self.items = items

    def generate(self, n, *, seed, conditions, start=0):
        for i, item in enumerate(self.items[start : start + n], start):
            if isinstance(item, Exception):
                raise item
            yield Candidate(item, Origin(self.name, "1", seed, i))


class KnowsNothing:
    info = ReferenceInfo("none", "0", 0, "")

    def match(self, batch):
        return [Verdict(c.digest, "novelty", True) for c in batch]


@pytest.fixture
def make(tmp_path):
    def context(items, relaxer=None, keep=False) -> Context:
        campaign = parse_campaign(
            {"name": "t", "generator": {"kind": "random"}, "screen": {"keep_rejected": keep}}
        )
        ledger = Ledger(Database(f"sqlite:///{tmp_path / 'l.sqlite'}"), campaign)
        return Context(
            campaign=campaign,
            ledger=ledger,
            folder=tmp_path,
            generator=Listed(items),
            validity=Validity(Conditions()),
            unique=InOrder(Uniqueness, ledger, Stage.SCREEN, screened_crystals),
            unique_relaxed=InOrder(Uniqueness, ledger, Stage.ASSESS, screened_crystals),
            reference=KnowsNothing(),
            relaxer=relaxer,
            judge=None,
            dft=None,
            workers=1,
        )

    return context


def screen_all(context: Context, slots: range, limit: int = 2) -> None:
    while work := context.ledger.claim(Stage.SCREEN, slots, limit, ordered=True):
        screen.fn(context, work, slots)


def test_a_faulty_generator_costs_the_slot_only(make):
    context = make([MGO, ValueError("bug"), CAO])
    slots = range(10)
    generate.fn(context, context.ledger.claim_generate(slots, 10))
    outcomes = context.ledger.outcomes(Stage.GENERATE)
    assert [o.reason for o in outcomes] == [None, Reason.GENERATION, None, Reason.EXHAUSTED]
    assert "bug" in outcomes[1].data["detail"]
    assert context.ledger.claim_generate(slots, 10) == []
    found = list(records(context.ledger))
    assert [r.slot for r in found] == [0, 1, 2], "the generator's end is no proposal"


def test_a_campaign_refuses_files_that_changed(make):
    context = make([MGO])
    context.generator.provenance = {"inputs": "a"}
    slots = range(1)
    generate.fn(context, context.ledger.claim_generate(slots, 1))
    refuse_changed_inputs(context)
    context.generator.provenance = {"inputs": "b"}
    with pytest.raises(InputError, match="other files of the generator"):
        refuse_changed_inputs(context)


def test_a_campaign_refuses_a_reference_file_that_changed(make):
    context = make([MGO])
    slots = range(1)
    generate.fn(context, context.ledger.claim_generate(slots, 1))
    screen_all(context, slots)
    changed = KnowsNothing()
    changed.info = ReferenceInfo("none", "1", 0, "")
    context.reference = changed
    refuse_changed_inputs(context)  # no file: a newer table or snapshot is named row by row
    choice = FileChoice(kind="file", path="x")
    context.campaign = context.campaign.model_copy(update={"reference": choice})
    with pytest.raises(InputError, match="other files of the reference"):
        refuse_changed_inputs(context)


@pytest.mark.parametrize("changed", ["crystals/a.cif", "reference.parquet"])
def test_a_screening_of_changed_files_is_another(tmp_path, changed):
    (tmp_path / "crystals").mkdir()
    (tmp_path / "crystals" / "a.cif").write_text("data_a")
    (tmp_path / "reference.parquet").write_bytes(b"1")

    def name():
        options = ScreenOptions(("none",), str(tmp_path / "reference.parquet"))
        return screening([str(tmp_path / "crystals")], options).name

    begun = name()
    assert name() == begun
    (tmp_path / changed).write_text("other")
    assert name() != begun


def test_the_earliest_of_duplicates_is_kept_across_restarts(make):
    items = [MGO, CAO, MGO_WIDER, MGO, NACL]
    first = make(items)
    slots = range(5)
    generate.fn(first, first.ledger.claim_generate(slots, 5))
    screen.fn(first, first.ledger.claim(Stage.SCREEN, slots, 2, ordered=True), slots)
    second = make(items)  # a new process knows only the ledger
    screen_all(second, slots)
    outcomes = second.ledger.outcomes(Stage.SCREEN)
    assert [o.reason for o in outcomes] == [None, None, Reason.DUPLICATE, Reason.DUPLICATE, None]
    assert {o.data["uniqueness"].get("match") for o in outcomes[2:4]} == {MGO.digest}


def test_a_batch_that_fails_half_way_leaves_no_trace(make, monkeypatch):
    context = make([MGO, CAO])
    slots = range(2)
    generate.fn(context, context.ledger.claim_generate(slots, 2))
    work = context.ledger.claim(Stage.SCREEN, slots, 2, ordered=True)
    record = context.ledger.record
    monkeypatch.setattr(context.ledger, "record", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        screen.fn(context, work, slots)
    monkeypatch.setattr(context.ledger, "record", record)
    screen.fn(context, work, slots)  # what Prefect's retry does
    assert [o.status for o in context.ledger.outcomes(Stage.SCREEN)] == [Status.PASSED] * 2


def test_keeping_rejected_lets_duplicates_pass_but_not_the_invalid(make):
    bad = Crystal(MGO.lattice, [[0, 0, 0], [0.01, 0, 0]], [12, 8])
    context = make([MGO, MGO, bad], keep=True)
    slots = range(3)
    generate.fn(context, context.ledger.claim_generate(slots, 3))
    screen_all(context, slots)
    outcomes = context.ledger.outcomes(Stage.SCREEN)
    assert [o.status for o in outcomes] == [Status.PASSED, Status.PASSED, Status.REJECTED]
    assert outcomes[1].data["uniqueness"]["passed"] is False


def test_a_check_that_could_not_be_made_is_a_failure():
    unknown = Verdict("k", "novelty", None, Reason.CHECK_FAILED)
    assert conclude([Verdict("k", "validity", True), unknown], keep=False) == (
        Status.FAILED,
        Reason.CHECK_FAILED,
    )
    assert conclude([Verdict("k", "validity", True), unknown], keep=True)[0] == Status.PASSED


class Fake:
    """Answers at once: one converged, one out of steps, one failed."""

    model = "fake-1"

    def relax(self, batch):
        for i, c in enumerate(batch):
            if i == 2:
                yield Failure(c.digest, Reason.EXPLODED, "boom")
            else:
                yield Relaxed(c.digest, c, -1.0, 0.01, 0.0, 3, i == 0, self.model)


class Impatient(Fake):
    """Gives up what has a ceiling, after a first stage."""

    def relax(self, batch, ceilings):
        for c, ceiling in zip(batch, ceilings, strict=True):
            before = Prepared("cheap-1", 9, 0.5, "it failed")
            stopped = "" if ceiling is None else f"above {ceiling}"
            end = Relaxed(c.digest, c, -1.0, 0.3, 0.0, 4, not stopped, self.model, 1.0, stopped, before)
            yield end


def test_what_is_given_up_is_rejected_not_failed(make):
    """With what was reached; the stages after do not see it."""
    context = make([MGO, CAO], relaxer=Impatient(), keep=True)
    context.ceilings = lambda batch: [-5.0 if c == MGO else None for c in batch]
    slots = range(2)
    generate.fn(context, context.ledger.claim_generate(slots, 2))
    screen_all(context, slots)
    assert relax.fn(context, context.ledger.claim(Stage.RELAX, slots, 9)) == 1
    given_up, fine = context.ledger.outcomes(Stage.RELAX)
    assert (given_up.status, given_up.reason) == (Status.REJECTED, Reason.FAR_ABOVE_HULL)
    assert (given_up.data["energy"], given_up.data["detail"]) == (-1.0, "above -5.0")
    assert given_up.data["prepared"]["steps"] == 9
    assert (fine.status, fine.reason) == (Status.PASSED, None)
    assert relaxed_of(fine, CAO.digest).prepared == Prepared("cheap-1", 9, 0.5, "it failed")
    assert relaxed_of(given_up, MGO.digest).stopped == "above -5.0"
    assert [w.slot for w in context.ledger.claim(Stage.ASSESS, slots, 9)] == [1]
    assert next(records(context.ledger)).reason == Reason.FAR_ABOVE_HULL


def test_out_of_steps_is_not_converged(make):
    context = make([MGO, CAO, NACL, MGO], relaxer=Fake(), keep=True)
    slots = range(4)
    generate.fn(context, context.ledger.claim_generate(slots, 4))
    screen_all(context, slots)
    relax.fn(context, context.ledger.claim(Stage.RELAX, slots, 9))
    outcomes = context.ledger.outcomes(Stage.RELAX)
    assert [o.reason for o in outcomes] == [None, Reason.NOT_CONVERGED, Reason.EXPLODED, None]
    assert outcomes[1].data["energy"] == -1.0, "what was reached is kept"
    found = list(records(context.ledger))
    assert [r.converged for r in found] == [True, False, False, True]
    assert row(found[2])["detail"] == "boom"
    counts = count(found)
    assert (counts.n, counts.valid, counts.unique, counts.converged) == (4, 4, 3, 2)
    for step in funnel(found, context.ledger.stages, 0.1)[1:3]:
        assert step.count >= 0
    assert counts.summary()["rates"]["converged"]["rate"] == 0.5


def hull(decomposition: float, *, novel: bool = True) -> dict:
    return {
        "hull": {"energy_above_hull": max(0.0, decomposition), "decomposition_energy": decomposition},
        "uniqueness": {"passed": True},
        "novelty": {"passed": novel},
    }


def test_each_budget_ends_the_campaign(make):
    from heliodor.flows.budget import job_spent, why_stop

    context = make([])
    now, ten = time.monotonic(), range(10)
    assert why_stop(context, now, ten) is None

    def ended(started: float = now, slots: range = ten, **limits: object) -> str | None:
        budget = context.campaign.budget.model_validate({"round_size": 10, **limits})
        campaign = context.campaign.model_copy(update={"budget": budget})
        return why_stop(replace(context, campaign=campaign), started, slots)

    assert ended(hours=1.0) is None
    assert ended(now - 3601, hours=1.0) == "budget of 1 hours spent"
    outcomes = [Outcome(s, Stage.ASSESS, Status.PASSED, data=hull(0.05)) for s in (3, 12)]
    context.ledger.record(outcomes, P)
    assert ended(sun=3) is None
    assert ended(sun=2) == "2 SUN crystals found"
    assert ended(slots=range(30, 40), rounds_without_sun=3) is None
    assert ended(slots=range(40, 50), rounds_without_sun=3) == (
        "3 rounds in a row without a new SUN crystal"
    )
    tell = job_spent(context.journal)
    for _ in range(2):  # told twice, counted once
        tell("relax-7/123", 1800, Resources(nodes=2, gpus=4))
    assert context.journal.spent() == {"node_hours": 1.0, "gpu_hours": 4.0}
    assert ended(gpu_hours=5, node_hours=2) is None
    assert ended(gpu_hours=4) == "budget of 4 GPU hours spent"
    assert ended(node_hours=1) == "budget of 1 node hours spent"
    prices = {"gpu_hour": 2.5, "node_hour": 1}
    assert ended(money=11.5, prices=prices) is None
    assert ended(money=11, prices=prices) == "budget of 11 money spent"
    context.journal.take("dft a", "dft_jobs", None)
    assert ended(dft_jobs=1) is None, "limits what comes after the rounds"


def test_pipeline_lanes_report_what_a_task_raised():
    from heliodor.flows.pipeline import Lane

    class Future:
        def result(self):
            raise RuntimeError("boom")

    future = Future()
    lane = Lane(lambda: None, lambda _: None, running=[future], ended=deque([future]))
    with pytest.raises(RuntimeError, match="boom"):
        lane.advance(eager=True)


def test_a_generator_that_makes_many_side_by_side_is_asked_for_many(make):
    from heliodor.flows.pipeline import GENERATE_BATCH, lanes

    context = make([])
    proposing = lanes(context, range(1000))[0]
    assert len(proposing.claim()) == GENERATE_BATCH
    context.generator.batch_size = 512
    proposing = lanes(context, range(1000))[0]
    assert proposing.claim() == list(range(GENERATE_BATCH, GENERATE_BATCH + 512))


def test_a_space_group_is_kept_with_the_outcome_that_ends_a_crystal(make):
    context = make([MGO, MGO, NACL])
    slots = range(3)
    generate.fn(context, context.ledger.claim_generate(slots, 3))
    screen_all(context, slots)
    kept = [o.data.get("spacegroup") for o in context.ledger.outcomes(Stage.SCREEN)]
    assert kept == [None, [225, "Fm-3m"], None], "the others are still to be relaxed"
    assert [r.spacegroup for r in records(context.ledger)] == [(225, "Fm-3m")] * 3
