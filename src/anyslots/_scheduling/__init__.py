"""What may start when: synchronous code without tasks, event loop or clock."""
