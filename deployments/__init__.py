"""Heliodor on a Prefect server: deployments, schedules, automations, and a worker that uses sbatch."""
