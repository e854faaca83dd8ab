# Uses CPU time until its limit: cpu_time_exceeded.
while True:
    pass
