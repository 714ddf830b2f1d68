"""How far each potential is from DFT: formation energies, energies above the hull, "stable" or not.

On 1,000 rows of the Materials Project and some 500 of WBM at their DFT geometry (single points), and on some of
both relaxed from there. The energies are kept in a folder, so that a run that was stopped goes on.

    python benchmarks/calibration.py [--rows 1000] [--wbm 660] [--relaxed 100] [--out runs/calibration]
        [--potentials ...] [--workers 2] [--write validators/data/calibration.json] [--only-print]

How it is counted. The error of a row is the potential's formation energy minus DFT's. The hull of a row is
that of all rows of the Materials Project table but itself; both the potential's and DFT's energy are set
against it, so that the signed distances differ by the error of the formation energy and by nothing else.
The energy above the hull is that distance, never negative. The table is a part of the Materials Project,
so its hull is too high; "MP's own" compares with the `e_above_hull` of the whole Materials Project.

WBM's energies carry the corrections that came before MP2020, as the first table printed shows: none for
Br, I, Se, Te, H and Sb, a third more for S. Rows in which MP2020 corrects one of those are left out, and
oxides and fluorides of the metals with +U, whose corrections may differ too.

Limits. Rows of the Materials Project are what the potentials were trained on, or close to it: their errors
there are too good for new crystals. WBM was not in the training and is substituted from known crystals;
far from anything known the errors are larger still.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from crystals import DATA, crystal, table

from heliodor.core.choices.relaxers import MlipChoice
from heliodor.core.elements import SYMBOLS
from heliodor.core.protocols import Phase
from heliodor.core.records import Failure, HullPoint
from heliodor.engines.mlip import MlipRelaxer
from heliodor.engines.potentials import KNOWN
from heliodor.report.stats import wilson
from heliodor.validators.calibration import CALIBRATIONS
from heliodor.validators.energies import elemental_energies, mp2020_correction
from heliodor.validators.hull import Hull
from heliodor.validators.opinions import together
from heliodor.validators.phases import Phases

POTENTIALS = ("chgnet", "sevennet", "sevennet-mf-pbe")
CARRIES_MP2020 = {"chgnet": True, "sevennet": False, "sevennet-mf-pbe": False}
ANIONS = ("O", "F", "S", "N", "Cl", "Br", "I", "Se", "Te", "H", "Si", "Sb")  # that MP2020 corrects
OTHERWISE = {"wbm": {"Br", "I", "Se", "Te", "H", "Sb", "S"}, "mp": set()}  # other than by MP2020
WITH_U = {"V", "Cr", "Mn", "Fe", "Co", "Ni", "Mo", "W"}
THRESHOLDS = (0.0, 0.1)
BINS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_SEED = 20
_BATCH = 40
_BOOTSTRAPS = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--wbm", type=int, default=660)
    parser.add_argument("--relaxed", type=int, default=100, help="of each of both tables")
    parser.add_argument("--potentials", nargs="+", default=list(POTENTIALS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/calibration"))
    parser.add_argument("--write", type=Path, help="what the package's uncertainties use")
    parser.add_argument("--only-print", action="store_true", help="compute nothing more")
    asked = parser.parse_args()
    samples = {
        "wbm": wbm_table().sample(asked.wbm, random_state=_SEED),
        "mp": table().sample(asked.rows, random_state=_SEED),
    }
    if not asked.only_print:
        gather(samples, asked)
    errors = show(samples, asked.out, asked.potentials)
    if asked.write:
        write_calibration(errors, asked.write)


def gather(samples: dict[str, pd.DataFrame], asked: argparse.Namespace) -> None:
    """All energies that are not in the folder yet: single points first."""
    for relax, limit in ((False, None), (True, asked.relaxed)):
        for name in asked.potentials:
            relaxer = MlipRelaxer(name, MlipChoice(), asked.workers)
            for source, rows in samples.items():
                kind = "relaxed" if relax else "single"
                compute(relaxer, rows[:limit], asked.out / f"{name}-{source}-{kind}.jsonl", relax=relax)
            relaxer.close()


def wbm_table() -> pd.DataFrame:
    """WBM; ends the program with a reason where it is not there."""
    path = DATA / "wbm.parquet"
    if not path.is_file():
        sys.exit(f"skipped: no table at {path}; set HELIODOR_TEST_DATA")
    found = pd.read_parquet(path)
    found["material_id"] = found["material_id"].astype(str)
    return found


# --- computing -----------------------------------------------------------------------------------


def compute(relaxer: MlipRelaxer, rows: pd.DataFrame, path: Path, *, relax: bool) -> None:
    """Append what is missing in the file: a line per row."""
    done = set(read(path)["id"]) if path.is_file() else set()
    todo = [row for row in rows.itertuples() if row.material_id not in done]
    path.parent.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    for i in range(0, len(todo), _BATCH):
        by_key = {}
        for row in todo[i : i + _BATCH]:
            by_key.setdefault(crystal(row).digest, []).append(row)
        crystals = [crystal(same[0]) for same in by_key.values()]
        results = relaxer.relax(crystals) if relax else relaxer.evaluate(crystals)
        with path.open("a") as file:
            for result in results:
                for row in by_key[result.key]:
                    file.write(json.dumps(line(row, result)) + "\n")
        spent = time.perf_counter() - begin
        print(f"{path.stem}: {i + len(by_key)} of {len(todo)}, {spent:.0f} s", file=sys.stderr)


def line(row, result) -> dict:
    """What is kept of a row: formation energy without MP2020, and MP2020's share, eV/atom."""
    if isinstance(result, Failure):
        return {"id": row.material_id, "failure": f"{result.reason}: {result.detail}"}
    end = getattr(result, "crystal", None) or crystal(row)
    references = elemental_energies()
    correction = mp2020_correction(end)
    return {
        "id": row.material_id,
        "raw": (result.energy - sum(references[z] for z in end.atomic_numbers.tolist())) / len(end),
        "mp2020": correction.energy / len(end),
        "uncertain": correction.uncertain,
        "converged": getattr(result, "converged", None),
        "seconds": round(result.seconds, 3),
    }


def read(path: Path) -> pd.DataFrame:
    found = pd.DataFrame([json.loads(text) for text in path.read_text().splitlines()])
    return found.assign(id=found["id"].astype(str))


# --- judging -------------------------------------------------------------------------------------


def show(samples: dict[str, pd.DataFrame], folder: Path, potentials: list[str]) -> dict:
    """Print everything; returns the errors of single points by (potential, table)."""
    hulls = {source: hull_energies(rows) for source, rows in samples.items()}
    errors = {}
    show_schemes(samples, folder, potentials)
    for kind, title in (
        ("single", "single points at the DFT geometry"),
        ("relaxed", "relaxed from there"),
    ):
        print(f"\n{title}; errors in meV/atom with 95 % intervals")
        for source, rows in samples.items():
            for name in potentials:
                path = folder / f"{name}-{source}-{kind}.jsonl"
                if path.is_file():
                    found = joined(rows, hulls[source], read(path), name, OTHERWISE[source])
                    show_one(found, name, source)
                    if kind == "single":
                        errors[name, source] = found
    show_consensus(errors, potentials)
    return errors


def show_schemes(samples: dict[str, pd.DataFrame], folder: Path, potentials: list[str]) -> None:
    """How much of MP2020's correction each table carries, anion by anion: 1 is all of it.

    By least squares over rows in which the anion is the only correction, with each potential's energies
    without corrections: table = potential + k * correction.
    """
    print("share of MP2020's anion corrections in the tables' energies (rows), by potential")
    for source, rows in samples.items():
        for name in potentials:
            path = folder / f"{name}-{source}-single.jsonl"
            if not path.is_file():
                continue
            lines = read(path).set_index("id")
            lines = lines[lines["raw"].notna()]
            here = rows.set_index("material_id")
            here = here.loc[here.index.isin(lines.index)]
            lines = lines.loc[here.index]
            plain = lines["raw"] - lines["mp2020"] * CARRIES_MP2020[name]
            missing = here["formation_energy_per_atom"] - plain
            elements = here["atomic_numbers"].map(lambda zs: {SYMBOLS[z] for z in zs})
            text = []
            for anion in ANIONS:
                mixed = WITH_U if anion in ("O", "F") else set()
                alone = [e & set(ANIONS) == {anion} and not e & mixed for e in elements]
                x, y = lines["mp2020"][alone], missing[alone]
                if (x != 0).sum() >= 3:
                    text.append(f"{anion} {(x * y).sum() / (x * x).sum():.2f} ({(x != 0).sum()})")
            print(f"  {source:4} {name:16} {', '.join(text)}")


def hull_energies(rows: pd.DataFrame) -> dict[str, float]:
    """Of each row, the energy of the hull of the table's other rows at its composition, eV/atom."""
    everything = table()
    phases = Phases(
        [
            Phase(row.material_id, crystal(row).reduced_composition, row.formation_energy_per_atom)
            for row in everything.itertuples()
        ]
    )
    found = {}
    for row in rows.itertuples():
        one = crystal(row)
        others = [p for p in phases.entries(one.elements) if p.material_id != row.material_id]
        found[row.material_id] = Hull(others).ground_state(one.reduced_composition)[0]
    return found


def joined(
    rows: pd.DataFrame, hull: dict[str, float], lines: pd.DataFrame, name: str, otherwise: set[str]
) -> pd.DataFrame:
    """A row per crystal that was computed: DFT's and the potential's energies and distances, eV/atom.

    Rows in which MP2020 corrects an element of `otherwise` are left out.
    """
    if "failure" in lines:
        failed = lines["failure"].notna()
        for text in lines["failure"][failed]:
            print(f"  left out: {name}: {text}")
        lines = lines[~failed]
    lines = lines.set_index("id")
    rows = rows.set_index("material_id")
    rows = rows.loc[rows.index.isin(lines.index)]
    lines = lines.loc[rows.index]
    elements = rows["atomic_numbers"].map(lambda zs: {SYMBOLS[z] for z in zs})
    with_u = elements.map(lambda e: bool(otherwise and e & WITH_U and e & {"O", "F"}))
    kept = ~((elements.map(lambda e: bool(e & otherwise)) & (lines["mp2020"] != 0)) | with_u)
    rows, lines = rows[kept], lines[kept]
    raw, corrected = lines["raw"], lines["raw"] + lines["mp2020"]
    right, wrong = (raw, corrected) if CARRIES_MP2020[name] else (corrected, raw)
    dft, at_hull = rows["formation_energy_per_atom"], pd.Series(hull).loc[rows.index]
    return pd.DataFrame(
        {
            "error": right - dft,
            "wrong": wrong - dft,
            "distance": right - at_hull,
            "true": dft - at_hull,
            "own": rows.get("e_above_hull", np.nan),
            "converged": lines["converged"],
            "uncertain": lines["uncertain"],
        }
    )


def show_one(found: pd.DataFrame, name: str, source: str) -> None:
    converged = ""
    if found["converged"].notna().any():
        converged = f"; {int((found['converged'] == True).sum())} converged"  # noqa: E712
    print(f"  {name}, {len(found)} rows of {source}{converged}")
    above = found["distance"].clip(lower=0) - found["true"].clip(lower=0)
    rows = [
        ("formation energy", found["error"]),
        ("  MP2020 certain", found["error"][~found["uncertain"].astype(bool)]),
        ("  MP2020 the wrong way", found["wrong"]),
        ("above hull, same phases", above),
    ]
    if found["own"].notna().all():
        rows.append(("above hull, MP's own", found["distance"].clip(lower=0) - found["own"]))
    for title, error in rows:
        print(f"    {title:<26} MAE {interval(error.abs())}   bias {interval(error, sign='+')}   "
              f"68 % below {1000 * error.abs().quantile(0.683):.0f}, 95 % below {1000 * error.abs().quantile(0.95):.0f}")  # fmt: skip
    for t in THRESHOLDS:
        said, true = found["distance"] <= t, found["true"] <= t
        print(f"    stable at {t:g}: precision {share((said & true).sum(), said.sum())}, "
              f"recall {share((said & true).sum(), true.sum())}; {true.mean():.0%} are")  # fmt: skip


def show_consensus(errors: dict, potentials: list[str]) -> None:
    """What the package's uncertainties are worth, with the numbers that it ships."""
    print("\nuncertainty u of single potentials and of all together: share of |error| below u and 2 u")
    for source in ("mp", "wbm"):
        given = [name for name in potentials if (name, source) in errors]
        for names in [[name] for name in given] + ([given] if len(given) > 1 else []):
            models = [KNOWN[name].model for name in names]
            if not set(models) <= CALIBRATIONS.keys():
                continue
            both = pd.concat({n: errors[n, source] for n in names}, axis=1, join="inner")
            rows = [
                together({m: point(both[n].loc[i]) for m, n in zip(models, names, strict=True)})
                for i in both.index
            ]
            u = np.array([row["energy_above_hull_uncertainty"] for row in rows])
            error = np.abs(sum(both[n]["error"] for n in names) / len(names))
            true = both[names[0]]["true"]
            print(f"  {source:4} {' + '.join(names):<36} u {1000 * np.median(u):.0f} (median): "
                  f"{np.mean(error <= u):.0%}, {np.mean(error <= 2 * u):.0%}")  # fmt: skip
            for t in THRESHOLDS:
                p = np.array([row[f"stable_{t:g}_likelihood"] for row in rows])
                parts = [
                    f"{low:.1f}-{high:.1f}: {(true[inside] <= t).mean():.0%} of {inside.sum()}"
                    for low, high in itertools.pairwise(BINS)
                    if (inside := (p >= low) & (p < high + (high == 1))).any()
                ]
                print(f"       likelihood at {t:g}, how many are: {'; '.join(parts)}")
    print(
        "  (WBM's own rows set the calibration, so its shares are near 68 % for one potential by making.)"
    )


def point(row: pd.Series) -> HullPoint:
    return HullPoint("", max(0.0, row["distance"]), row["distance"], 0.0, (), "", "", "")


def write_calibration(errors: dict, path: Path) -> None:
    found = {}
    for name in {name for name, _ in errors}:
        both = {
            kind: errors[name, source]["error"] for kind, source in (("known", "mp"), ("new", "wbm"))
        }
        found[KNOWN[name].model] = {kind: summary(error) for kind, error in both.items()}
    content = {
        "source": "formation energies against the Materials Project and WBM (eV/atom), single points; "
        "python benchmarks/calibration.py --write validators/data/calibration.json",
        "date": time.strftime("%Y-%m-%d"),
        "potentials": dict(sorted(found.items())),
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def summary(error: pd.Series) -> dict:
    return {
        "rows": len(error),
        "mae": round(float(error.abs().mean()), 4),
        "bias": round(float(error.mean()), 4),
        "half_width": round(float(error.abs().quantile(0.683)), 4),
        "quantiles": [round(float(q), 4) for q in np.quantile(error, np.linspace(0, 1, 41))],
    }


def interval(error: pd.Series, sign: str = "") -> str:
    """Mean in meV/atom with the 95 % interval of the mean over bootstrap samples."""
    rng = np.random.default_rng(0)
    means = [rng.choice(error, len(error)).mean() for _ in range(_BOOTSTRAPS)]
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{1000 * error.mean():{sign}.1f} ({1000 * low:{sign}.1f} to {1000 * high:{sign}.1f})"


def share(k: int, n: int) -> str:
    if not n:
        return "none"
    low, high = wilson(int(k), int(n))
    return f"{k / n:.1%} ({low:.1%} to {high:.1%}) of {n}"


if __name__ == "__main__":
    main()
