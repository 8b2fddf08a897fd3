# Numbers its lines, fifty a second, and ends with status 3.
trap 'say "SIGTERM"; exit 3' TERM
say ready
n=0
while :; do
  n=$((n+1))
  say "line $n"
  sleep 0.02
done
