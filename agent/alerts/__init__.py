"""Standing questions: rules, the gate, the judge, what fired and what did not."""
