"""One Prefect task per stage: claim a batch, call a room below, record."""
