# Hears SIGTERM and does not end.
trap 'say "SIGTERM: not now"' TERM
say ready
while :; do sleep 3600 & wait $!; done
