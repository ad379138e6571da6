package xds

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"
)

// KeySources say from where the control plane fetches issuers' keys. The zero value is nowhere.
type KeySources struct {
	Hosts     []string      // of URIs, exact: a DNS name or an IP address, without a port
	PlainHTTP bool          // by http:// too
	Loopback  bool          // also from this machine; development only
	Resolver  *net.Resolver // nil: the system's
}

// Check returns why keys must not be fetched from a URI, nil when they may be, as far as the URI tells. Where its name leads is looked at
// when it is dialled.
func (k *KeySources) Check(uri string) error {
	u, err := url.Parse(uri)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("must be an http or https URL without user (got %q)", uri)
	case u.Scheme == "http" && !k.PlainHTTP:
		return fmt.Errorf("must be https, or the control plane be started with --allow-http-jwks (got %q)", uri)
	}
	host := u.Hostname()
	if !slices.ContainsFunc(k.Hosts, func(allowed string) bool { return strings.EqualFold(allowed, host) }) {
		return fmt.Errorf("must be at a host that the control plane was started with, as --jwks-host %s: those are %s (got %q)", host, list(k.Hosts), uri)
	}
	if at, err := netip.ParseAddr(host); err == nil {
		return k.checkAddress(at)
	}
	return nil
}

func list(hosts []string) string {
	if len(hosts) == 0 {
		return "none"
	}
	return strings.Join(hosts, ", ")
}

// client fetches keys. It follows no redirect, and takes no proxy from the environment, which would choose the address instead.
func (k *KeySources) client() *http.Client {
	dialer := &net.Dialer{Timeout: jwksTimeout, Resolver: k.Resolver, Control: k.control}
	return &http.Client{
		Timeout:       jwksTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: dialer.DialContext, ForceAttemptHTTP2: true, DisableKeepAlives: true,
			TLSHandshakeTimeout: jwksTimeout, ResponseHeaderTimeout: jwksTimeout, MaxResponseHeaderBytes: 64 << 10, IdleConnTimeout: time.Second,
		},
	}
}

// control sees each address that is about to be dialled, whatever a name led to before.
func (k *KeySources) control(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return k.checkAddress(at.Addr())
}

// shut are addresses at which no issuer is.
var shut = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "of this network"}, // RFC 6890, as those below
	{netip.MustParsePrefix("192.0.0.0/24"), "of protocols, or a cloud's metadata"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved"},
	{netip.MustParsePrefix("100.100.100.200/32"), "of a cloud's metadata"}, // Alibaba Cloud
	{netip.MustParsePrefix("168.63.129.16/32"), "of a cloud's metadata"},   // Azure
	{netip.MustParsePrefix("fd00:ec2::/32"), "of a cloud's metadata"},      // AWS
	{netip.MustParsePrefix("fd20:ce::/32"), "of a cloud's metadata"},       // Google Cloud
	{netip.MustParsePrefix("fec0::/10"), "site-local"},
	{netip.MustParsePrefix("::/96"), "an IPv4 address in disguise"},
	{netip.MustParsePrefix("64:ff9b::/96"), "an IPv4 address in disguise"}, // RFC 6052
	{netip.MustParsePrefix("64:ff9b:1::/48"), "an IPv4 address in disguise"},
	{netip.MustParsePrefix("2001::/32"), "an IPv4 address in disguise"}, // Teredo
	{netip.MustParsePrefix("2002::/16"), "an IPv4 address in disguise"}, // 6to4
}

// checkAddress returns why no keys are fetched from an address, nil when they are.
func (k *KeySources) checkAddress(at netip.Addr) error {
	at = at.WithZone("").Unmap()
	refuse := func(what string) error {
		return fmt.Errorf("must not lead to an address that is %s (got %v)", what, at)
	}
	switch {
	case at.IsLoopback() && k.Loopback:
		return nil
	case at.IsLoopback():
		return refuse("loopback, but with --allow-loopback-jwks")
	case at.IsUnspecified():
		return refuse("unspecified")
	case at.IsMulticast():
		return refuse("multicast")
	case at.IsLinkLocalUnicast():
		return refuse("link-local")
	}
	for _, s := range shut {
		if s.prefix.Contains(at) {
			return refuse(s.what)
		}
	}
	return nil
}
