"""The processes of a loop: trainers, and a host for the other stages."""
