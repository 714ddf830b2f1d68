"""What every room shares: crystal, records, protocols, campaign file, ledger."""
