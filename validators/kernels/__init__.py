"""What crystals are compared with, compiled: imported at the first comparison, never before."""
