"""Judge crystals: validity, uniqueness, novelty, energies, hull, references."""
