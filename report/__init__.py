"""What comes out of a campaign: HTML report, plots, exports."""
