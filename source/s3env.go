package source

import (
	"cmp"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"gopkg.in/ini.v1"

	"github.com/gantry-ml/gantry/recovery"
)

// s3Name is what an s3:// URI names.
type s3Name struct{ bucket, prefix, entry string }

var bucketName = regexp.MustCompile(`^[a-z0-9A-Z][a-z0-9A-Z._-]{1,61}[a-z0-9A-Z]$`)

// parseS3 reads s3://bucket/prefix or s3://bucket/prefix/file.safetensors. A
// name that ends as a checkpoint's file does is one, any other is a prefix,
// with or without a '/' at its end.
func parseS3(uri string) (s3Name, error) {
	u, err := url.Parse(uri)
	if err != nil || !bucketName.MatchString(u.Host) || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return s3Name{}, recovery.Errorf(recovery.Usage, "%s is no prefix of a bucket: want s3://bucket/prefix, without user, query or fragment", redact(uri))
	}
	key := strings.Trim(u.Path, "/")
	n := s3Name{bucket: u.Host, prefix: key}
	if key != "" && !ValidName(key) {
		return s3Name{}, recovery.Errorf(recovery.Usage, "%s: a key of that form names no checkpoint", redact(uri))
	}
	ends := func(end string) bool { return strings.HasSuffix(key, end) }
	if !strings.HasSuffix(u.Path, "/") && slices.ContainsFunc(weightEndings, ends) {
		n.prefix, n.entry = path.Dir(key), path.Base(key)
	}
	if n.prefix = strings.Trim(n.prefix, "."); n.prefix != "" {
		n.prefix += "/"
	}
	return n, nil
}

// s3Env is how the AWS tools' environment says to reach a service.
type s3Env struct {
	endpoint    *url.URL
	region      string
	credentials *credentials.Credentials
	custom      bool // the endpoint is not AWS's own
}

// awsHost is where s3:// leads without a custom endpoint.
const awsHost = "s3.amazonaws.com"

// s3Environment reads the variables and files that AWS's tools read. Without
// any credentials requests are not signed, as for public buckets.
func s3Environment() (s3Env, error) {
	profile := cmp.Or(os.Getenv("AWS_PROFILE"), os.Getenv("AWS_DEFAULT_PROFILE"))
	config, err := awsConfig(profile)
	if err != nil {
		return s3Env{}, err
	}
	e := s3Env{region: cmp.Or(os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"), config["region"])}
	endpoint := cmp.Or(os.Getenv("AWS_ENDPOINT_URL_S3"), os.Getenv("AWS_ENDPOINT_URL"), config["endpoint_url"])
	if os.Getenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") == "true" {
		endpoint = ""
	}
	e.custom = endpoint != ""
	u, err := url.Parse(cmp.Or(endpoint, "https://"+awsHost))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || strings.Trim(u.Path, "/") != "" {
		return s3Env{}, recovery.Errorf(recovery.Usage, "AWS_ENDPOINT_URL is no URL of a service: want https://host[:port], without user, path or query")
	}
	e.endpoint = u
	if e.custom {
		e.region = cmp.Or(e.region, "us-east-1") // what services other than AWS's take
	}
	e.credentials, err = awsCredentials(profile)
	return e, err
}

// awsCredentials takes the keys of the environment, else those of the profile,
// else none.
func awsCredentials(profile string) (*credentials.Credentials, error) {
	if cmp.Or(os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_ACCESS_KEY")) != "" {
		return credentials.NewEnvAWS(), nil
	}
	asked := profile != "" || os.Getenv("AWS_SHARED_CREDENTIALS_FILE") != ""
	c := credentials.NewFileAWSCredentials("", profile)
	v, err := c.GetWithContext(&credentials.CredContext{Client: http.DefaultClient})
	if err == nil && v.AccessKeyID != "" {
		return c, nil
	}
	if !asked {
		return credentials.NewStatic("", "", "", credentials.SignatureAnonymous), nil
	}
	if err == nil {
		err = errors.New("it has no keys")
	}
	return nil, &recovery.Error{Class: recovery.NotAllowed, Op: "read the credentials of AWS profile " + cmp.Or(profile, "default"), Err: err,
		Hint: "check AWS_PROFILE and AWS_SHARED_CREDENTIALS_FILE"}
}

// awsConfig returns what the config file says about a profile; nothing where
// there is no file.
func awsConfig(profile string) (map[string]string, error) {
	file := os.Getenv("AWS_CONFIG_FILE")
	if file == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, nil // no home, no file
		}
		file = filepath.Join(home, ".aws", "config")
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fileError("read AWS's config", file, err)
	}
	f, err := ini.LoadSources(ini.LoadOptions{AllowNestedValues: true, SkipUnrecognizableLines: true}, text)
	if err != nil {
		return nil, recovery.Errorf(recovery.Usage, "%s is no config file of AWS's tools", file)
	}
	section := "default"
	if profile != "" && profile != section {
		section = "profile " + profile
	}
	return f.Section(section).KeysHash(), nil
}

// newS3 makes a client of the service that sends what it sends through a web:
// with its guard over hosts and addresses, its time-outs and its certificates.
func newS3(e s3Env, o Options) (*web, *minio.Core, error) {
	w, err := newWeb(e.endpoint, o)
	if err != nil {
		return nil, nil, err
	}
	if !e.custom {
		// Buckets are hosts of their own there, and may be endpoints in a
		// private network.
		w.guard.named = append(w.guard.named, "*.amazonaws.com")
	}
	core, err := minio.NewCore(e.endpoint.Host, &minio.Options{
		Creds: e.credentials, Secure: e.endpoint.Scheme == "https", Region: e.region, Transport: guarded{w},
		MaxRetries: 1, // Retry does that, for all sources alike
	})
	if err != nil {
		return nil, nil, recovery.Errorf(recovery.Usage, "AWS_ENDPOINT_URL: %w", err)
	}
	core.SetAppInfo("gantry", "1")
	return w, core, nil
}

// guarded refuses hosts that may not be read from.
type guarded struct{ w *web }

func (g guarded) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := g.w.guard.host(req.URL.Hostname()); err != nil {
		return nil, err
	}
	return g.w.conns.RoundTrip(req)
}
