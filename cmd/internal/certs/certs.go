package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/gantry-ml/gantry/recovery"
)

// Validity is how long what Init makes is valid.
const Validity = 365 * 24 * time.Hour

// skew is how far clocks may be apart.
const skew = time.Hour

// Init makes an authority in dir (ca.pem, ca.key) and two certificates of it:
// node.pem and node.key for daemons at the given hosts, names or addresses, and
// at this one; client.pem and client.key for commands. Keys are readable by
// their owner alone. It fails with class usage where dir has an authority
// already: certificates of two are of no use to each other.
func Init(dir string, hosts []string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return writeError(dir, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "ca.key")); !errors.Is(err, fs.ErrNotExist) {
		return &recovery.Error{Class: recovery.Usage, Op: "make certificates", File: dir,
			Err: errors.New("it has an authority already"), Hint: "name an empty folder, or remove ca.key"}
	}
	now := time.Now()
	root := &x509.Certificate{
		Subject: pkix.Name{CommonName: "Gantry authority"}, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	key, err := issue(dir, "ca", root, root, nil, now)
	if err != nil {
		return err
	}
	node := &x509.Certificate{
		Subject: pkix.Name{CommonName: "Gantry node"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, // each node serves and calls
	}
	for _, h := range append([]string{"localhost", "127.0.0.1", "::1"}, hosts...) {
		if ip := net.ParseIP(h); ip != nil {
			node.IPAddresses = append(node.IPAddresses, ip)
		} else {
			node.DNSNames = append(node.DNSNames, h)
		}
	}
	client := &x509.Certificate{
		Subject: pkix.Name{CommonName: "Gantry client"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if _, err := issue(dir, "node", node, root, key, now); err != nil {
		return err
	}
	_, err = issue(dir, "client", client, root, key, now)
	return err
}

// issue signs a certificate for a new key and writes both as name.pem and
// name.key. signer nil signs it by itself.
func issue(dir, name string, cert, by *x509.Certificate, signer *ecdsa.PrivateKey, now time.Time) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if signer == nil {
		signer = key
	}
	if cert.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, err
	}
	cert.NotBefore, cert.NotAfter = now.Add(-skew), now.Add(Validity)
	der, err := x509.CreateCertificate(rand.Reader, cert, by, &key.PublicKey, signer)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := write(filepath.Join(dir, name+".pem"), "CERTIFICATE", der, 0o644); err != nil {
		return nil, err
	}
	return key, write(filepath.Join(dir, name+".key"), "PRIVATE KEY", private, 0o600)
}

func write(path, kind string, der []byte, mode os.FileMode) error {
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode); err != nil {
		return writeError(path, err)
	}
	return nil
}

func writeError(path string, err error) error {
	class := recovery.Unavailable
	if errors.Is(err, fs.ErrPermission) {
		class = recovery.NotAllowed
	}
	return &recovery.Error{Class: class, Op: "make certificates", File: path, Err: err}
}
