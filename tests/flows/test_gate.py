"""What may be computed by DFT: approved, and within the budget."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from pymatgen.core import Lattice, Structure

from heliodor.core.campaign import parse_campaign
from heliodor.core.convert import from_structure
from heliodor.core.database import Database
from heliodor.core.errors import InputError
from heliodor.core.journal import Journal, Kind
from heliodor.core.ledger import Ledger, Work
from heliodor.core.levels import Level
from heliodor.core.records import Candidate, DftResult, DftTicket, Origin, Outcome, Stage, Status
from heliodor.flows.approve import Question
from heliodor.flows.build import remember, stages_of
from heliodor.flows.gate import allowed, form, held_back
from heliodor.tasks.approval import Decision, asked, decide, digest_of
from heliodor.tasks.shortlist import Shortlisted
from heliodor.tasks.table import Record
from heliodor.tasks.verify import Competitor, Plan, _paid

ELEMENTS = ("Mg", "Ca", "Sr")
LEVEL = Level.of("abinit-9.6.2", "PBE", "own", {})


class Engine:
    """Calculations that have ended by digest; none is ever run."""

    name = "abinit"

    def __init__(self):
        self.known = {}

    def prepare(self, batch, folder, elements=()):
        raise AssertionError

    write_manifest = run = prepare

    def level(self, _elements):
        return LEVEL

    def ended(self, ticket):
        return self.known.get(ticket.input_digest)


def oxide(metal):
    return from_structure(
        Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.8), [metal, "O"], [[0, 0, 0], [0.5] * 3])
    )


def ticket(name):
    return DftTicket("", "abinit", f"/dft/{name}", name, "")


def result(name, seconds, crystal):
    return DftResult("", name, LEVEL, crystal, -1.0, 0.0, 0.0, True, 3, seconds=seconds)


@pytest.fixture
def told(monkeypatch):
    """What people were told, instead of sending it to a server."""
    events = []
    monkeypatch.setattr("heliodor.flows.gate.emit", lambda *args: events.append(args[1:]))
    return events


@pytest.fixture
def gate(tmp_path, told):
    """Three oxides (8 atoms): each needs itself, its metal (4 atoms), and oxygen that all share."""

    def make(approval=True, **budget):
        campaign = parse_campaign(
            {
                "name": "gated",
                "space": {"elements": ["Mg", "Ca", "Sr", "O"], "subsystems": True},
                "generator": {"kind": "substitution"},
                "dft": {"kind": "abinit", "approval": approval},
                "budget": {"candidates": 3, **budget},
            }
        )
        database = Database(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
        ledger = Ledger(database, campaign, stages_of(campaign))
        remember(campaign, tmp_path)
        return SimpleNamespace(
            campaign=campaign,
            ledger=ledger,
            journal=Journal(database, ledger.campaign_id),
            dft=Engine(),
            folder=tmp_path,
            workers=2,
        )

    return make


def shortlist_of(metals=ELEMENTS):
    best, plans = [], []
    for slot, metal in enumerate(metals):
        crystal = oxide(metal)
        candidate = Candidate(crystal, Origin("t", "1", 0, slot))
        outcome = Outcome(slot, Stage.GENERATE, Status.PASSED)
        best.append(Shortlisted(Record(slot, outcome, candidate), 0.0, 0, 0.0, 1))
        phases = (
            Competitor("element", metal, "reference", ticket(metal), 4),
            Competitor("element", "O", "reference", ticket("O"), 4),
        )
        work, hull = Work(slot, candidate, outcome), {"energy_above_hull": 0.01 * slot}
        plans.append(Plan(work, crystal, hull, ticket(f"{metal}O"), phases))
    return best, plans


def chosen(plans):
    return [plan.work.slot for plan in plans]


def test_nothing_is_computed_before_the_answer_and_the_answer_holds(gate, told):
    context = gate()
    best, plans = shortlist_of()
    for _ in range(2):  # asked once, however often it is run
        granted, held = allowed(context, best, plans)
        assert granted == []
        assert held_back(held) == f"3 crystals waiting for approval: heliodor approve {context.folder}"
    assert [event for event, _, _ in told] == ["heliodor.approval.wanted"]
    assert len(context.journal.entries(Kind.NOTICE)) == 1
    question = Question(context.folder)
    assert [c.calculations for c in question.proposal.crystals] == [3, 2, 2]
    assert question.proposal.calculations == 7
    assert "node hours: unknown" in question.proposal.cost()
    question.answer(yes=True, leave_out=question.left_out(["MgO", "2"]), comment="why not")
    granted, held = allowed(context, best, plans)
    assert chosen(granted) == [0, 2]
    assert held_back(held).startswith("1 crystal left out by ")
    assert allowed(context, best, plans[2:])[1] == {}, "a verdict more or less asks nothing anew"


def test_a_changed_shortlist_asks_again_and_a_later_answer_replaces(gate):
    context = gate()
    best, plans = shortlist_of(ELEMENTS[:2])
    allowed(context, best, plans)
    Question(context.folder).answer(yes=False)
    assert held_back(allowed(context, best, plans)[1]).startswith("2 crystals declined by ")
    Question(context.folder).answer(yes=True)
    assert chosen(allowed(context, best, plans)[0]) == [0, 1]
    best, plans = shortlist_of()
    assert "waiting" in held_back(allowed(context, best, plans)[1])
    assert asked(context.journal)[0].digest == digest_of(best, "abinit")
    assert digest_of(best, "gpaw") != digest_of(best, "abinit")


def test_who_asks_for_what_is_not_on_the_list_is_told_what_is(gate, tmp_path):
    context = gate()
    with pytest.raises(InputError, match="waits for no approval"):
        Question(context.folder)
    best, plans = shortlist_of()
    allowed(context, best, plans)
    with pytest.raises(InputError, match="got BeO; on the shortlist: 0: MgO, 1: CaO, 2: SrO"):
        Question(Path(tmp_path)).left_out(["BeO", "1"])


def test_without_approval_only_the_budget_counts(gate):
    context = gate(approval=False, dft_jobs=5)
    best, plans = shortlist_of()
    granted, held = allowed(context, best, plans)
    assert chosen(granted) == [0, 1], "3 and 2 calculations; the third would be the 6th and 7th"
    assert held_back(held) == "1 crystal left for later: 0 of 5 DFT calculations are left"
    context.dft.known["O"] = context.dft.known["Mg"] = result("O", 10, oxide("Mg"))
    assert chosen(allowed(context, best, plans)[0]) == [0, 1, 2], "what is known costs nothing"


def test_a_plan_that_does_not_fit_leaves_room_for_one_that_does(gate):
    context = gate(approval=False, dft_jobs=2)
    context.dft.known["O"] = result("O", 10, oxide("Mg"))
    best, plans = shortlist_of()
    context.journal.take("dft Sr", "dft_jobs", None)
    assert chosen(allowed(context, best, plans)[0]) == [2], "its metal was paid for before a kill"


def test_spent_hours_end_dft_but_not_what_was_begun(gate):
    context = gate(approval=False, node_hours=1)
    best, plans = shortlist_of()
    assert _paid(context, ticket("Mg"))
    context.journal.meter("run x", {"node_hours": 1.2})
    granted, held = allowed(context, best, plans)
    assert granted == []
    assert held_back(held) == "3 crystals without DFT: budget of 1 node hours spent"
    assert _paid(context, ticket("Mg")), "in flight: its result is collected"
    assert not _paid(context, ticket("Ca"))
    assert context.journal.spent()["dft_jobs"] == 1


def test_the_cost_is_estimated_from_what_has_ended(gate):
    context = gate(prices={"node_hour": 3})
    best, plans = shortlist_of()
    for name, seconds, crystal in (("O", 80.0, oxide("Mg")), ("MgO", 80.0, oxide("Mg"))):
        context.dft.known[name] = result(name, seconds, crystal)
    allowed(context, best, plans)
    proposal = asked(context.journal)[0]
    assert (proposal.calculations, proposal.ended) == (5, 2)
    # 80 s for 8 atoms: two oxides at 80 s, three metals of 4 atoms at 10 s, two side by side.
    assert proposal.node_hours == pytest.approx((2 * 80 + 3 * 10) / 2 / 3600)
    assert proposal.money == pytest.approx(3 * proposal.node_hours)
    assert "from 2 earlier calculations of 8 to 8 atoms" in proposal.cost()


def test_the_form_offers_the_shortlist(gate):
    context = gate()
    best, plans = shortlist_of()
    allowed(context, best, plans)
    made = form(asked(context.journal)[0])
    schema = made.model_json_schema()
    assert schema["required"] == ["answer"], "nobody says yes by not looking"
    assert schema["properties"]["leave_out"]["items"]["enum"] == ["0: MgO", "1: CaO", "2: SrO"]
    assert "| 1 | CaO | 8 | 0.010 | 2 |" in made._description
    with pytest.raises(ValueError, match="leave_out"):
        made(answer="yes", leave_out=["7: BeO"])


def test_all_answers_are_kept(gate):
    journal = gate().journal
    for yes in (False, True, False):
        decide(journal, "d", Decision(yes, who="me"))
    assert [entry.data["yes"] for entry in journal.entries(Kind.DECISION)] == [False, True, False]
    with journal._database.read() as connection:
        assert connection.scalar(sa.text("select count(*) from journal")) == 3
