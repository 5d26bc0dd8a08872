"""MQTT: the broker connection, topics, Home Assistant discovery, the durable outbox."""
