"""Federated rounds on Flower: many devices teach one adapter, and their examples stay where they are.

Flower carries, schedules and aggregates the messages. What is here says what a message holds, what a device does with
it, and what a server keeps: `order` and `device`, `admission` and `rounds`. The app in `app/` puts them together; `prge
federated init` writes it for a program.
"""
