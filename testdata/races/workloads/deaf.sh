# Has no handler for SIGTERM, as most programs that were not made to be PID 1.
say ready
while :; do sleep 3600; done
