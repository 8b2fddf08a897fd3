package runtime

// Annotation is one entry of the "annotations" of config.json (OCI runtime
// specification, config.md, "Annotations").
type Annotation struct{ Key, Value string }

// Annotations are in the order of config.json: crun prints them in that order.
type Annotations []Annotation

// Get gives the value of key and whether there is one.
func (a Annotations) Get(key string) (string, bool) {
	for _, entry := range a {
		if entry.Key == key {
			return entry.Value, true
		}
	}
	return "", false
}
