"""Tests that take minutes to hours: fuzzers at full length, kills, and an hour with 16 cameras."""
