package otlp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdk "go.opentelemetry.io/otel/sdk/trace"
)

// Endpoint is where a collector takes traces.
type Endpoint struct {
	url  url.URL
	grpc bool
}

// Where collectors listen, and the path of traces over HTTP
// (https://opentelemetry.io/docs/specs/otlp).
const (
	httpPort   = "4318"
	grpcPort   = "4317"
	tracesPath = "/v1/traces"
)

// ParseEndpoint reads http://HOST:PORT, https://, grpc:// (without TLS) or grpcs://. A
// port that is missing is the usual one, a path that is missing /v1/traces.
func ParseEndpoint(text string) (e Endpoint, err error) {
	u, err := url.Parse(text)
	if err != nil {
		return e, fmt.Errorf("endpoint %q: %w", text, err)
	}
	port := httpPort
	switch u.Scheme {
	case "http", "https":
		if u.Path == "" || u.Path == "/" {
			u.Path = tracesPath
		}
	case "grpc", "grpcs":
		e.grpc, port = true, grpcPort
		if u.Path != "" && u.Path != "/" {
			return e, fmt.Errorf("endpoint %q: gRPC has no path", text)
		}
	default:
		return e, fmt.Errorf("endpoint %q: want http://HOST:%s, https://HOST, grpc://HOST:%s or grpcs://HOST", text, httpPort, grpcPort)
	}
	if u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return e, fmt.Errorf("endpoint %q: want SCHEME://HOST[:PORT][/PATH]; headers come from OTEL_EXPORTER_OTLP_HEADERS", text)
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), port)
	}
	e.url = *u
	return e, nil
}

// String is the endpoint with all that was left out.
func (e Endpoint) String() string { return e.url.String() }

// batch is how many spans go in one message: some hundred KiB, and collectors take 4 MiB.
const batch = 256

// Send sends the spans. Each message is tried again for at most patience where the
// collector says that it may be. Environment variables OTEL_EXPORTER_OTLP_* that the
// SDK knows give headers, certificates and compression.
func (e Endpoint) Send(ctx context.Context, spans []Span, patience time.Duration) (err error) {
	exporter, err := e.exporter(ctx, patience)
	if err != nil {
		return fmt.Errorf("%s: %w", e, err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		err = errors.Join(err, exporter.Shutdown(ctx))
	}()
	var refused refusals
	otel.SetErrorHandler(&refused) // the exporters tell a partial success nowhere else
	for sent := 0; sent < len(spans); sent += batch {
		ctx, cancel := context.WithTimeout(ctx, patience)
		err := exporter.ExportSpans(ctx, spans[sent:min(sent+batch, len(spans))])
		cancel()
		if err != nil {
			return fmt.Errorf("%s has %d of %d spans: %w", e, sent, len(spans), err)
		}
	}
	if err := refused.err(); err != nil {
		return fmt.Errorf("%s: %w", e, err)
	}
	return nil
}

func (e Endpoint) exporter(ctx context.Context, patience time.Duration) (sdk.SpanExporter, error) {
	const first = 200 * time.Millisecond
	if e.grpc {
		options := []otlptracegrpc.Option{
			otlptracegrpc.WithEndpoint(e.url.Host), otlptracegrpc.WithTimeout(patience),
			otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{Enabled: true, InitialInterval: first, MaxInterval: patience, MaxElapsedTime: patience}),
		}
		if e.url.Scheme == "grpc" {
			options = append(options, otlptracegrpc.WithInsecure())
		}
		return otlptracegrpc.New(ctx, options...)
	}
	return otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(e.url.String()), otlptracehttp.WithTimeout(patience),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: true, InitialInterval: first, MaxInterval: patience, MaxElapsedTime: patience}))
}

// refusals gathers what the exporters report besides their errors.
type refusals struct {
	mu  sync.Mutex
	all []error
}

func (r *refusals) Handle(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, err)
}

func (r *refusals) err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.all...)
}
