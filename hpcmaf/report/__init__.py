"""From run directories to tables and plots; needs nothing but the directories."""
