"""Find and repair what dead processes and damage leave behind."""
