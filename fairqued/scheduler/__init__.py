"""The scheduler: schedules, promotions and the other chores done once a namespace."""
