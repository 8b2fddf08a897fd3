# A ledger, as a database or a queue is one: it has acknowledged 20 entries that
# are in memory only. When it is told to stop it writes them out, which takes two
# seconds. A second SIGTERM means "quit now" to it, as to many programs.
terms=0
trap 'terms=$((terms+1)); [ $terms = 2 ] && { say "second SIGTERM: quitting at once"; exit 1; }' TERM
echo 20 > /data/accepted
say ready
sleep 3600 &
while [ $terms = 0 ]; do wait $!; done
kill $!
say "SIGTERM: writing out 20 entries"
n=0
while [ $n -lt 20 ]; do
  sleep 0.1
  n=$((n+1))
  echo "entry $n" >> /data/ledger
done
echo closed >> /data/ledger
say "closed"
exit 0
