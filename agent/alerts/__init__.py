"""Standing questions: rules, the gate and the judge that decide about alerts, and the store and delivery of alerts."""
