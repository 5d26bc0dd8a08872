"""What takes minutes to hours: fuzzers with their full counts, kills, and an hour with sixteen cameras."""
