"""What dead processes and damage leave behind, found and repaired."""
