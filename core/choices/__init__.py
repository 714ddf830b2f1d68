"""What a campaign file can choose for each room, one module a room."""
