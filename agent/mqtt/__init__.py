"""MQTT: the broker connection, topics, Home Assistant discovery, delivery of alert events, questions and commands."""
