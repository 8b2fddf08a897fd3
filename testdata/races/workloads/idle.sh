# Ends at once when it is told to.
trap 'say "SIGTERM"; exit 0' TERM
say ready
while :; do sleep 3600 & wait $!; done
