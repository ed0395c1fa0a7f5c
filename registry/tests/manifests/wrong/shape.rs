//! What is no manifest at all.

use super::{Case, LINK_HEAD, SERVICE_HEAD, WHOLE};

/// YAML, kinds, versions, metadata, unknown fields, bombs.
pub(super) const SHAPE: &[Case] = &[
    Case {
        head: WHOLE,
        rest: "hello
",
        said: &["1:1 expected fields (`name: value`) => write `{}` where there are none"],
    },
    Case {
        head: WHOLE,
        rest: "- a
",
        said: &["1:1 expected fields (`name: value`) => write `{}` where there are none"],
    },
    Case {
        head: WHOLE,
        rest: "# nothing
",
        said: &["0:0 warning: this file holds no document"],
    },
    Case {
        head: WHOLE,
        rest: "---
# a comment
foo: 1
",
        said: &["3:1 kind is missing => add `kind: MeshService`"],
    },
    Case {
        head: WHOLE,
        rest: "kind: Link
",
        said: &[
            "1:7 Link: apiVersion is missing => add `apiVersion: ringway.dev/v1alpha1`",
            "1:7 Link: metadata is missing => add `metadata: { name: ... }`",
        ],
    },
    Case {
        head: WHOLE,
        rest: "apiVersion: ringway.dev/v1alpha1
kind: Service
metadata: { name: cart }
spec: {}
",
        said: &["2:7 kind: `Service` is not known => did you mean `MeshService`?"],
    },
    Case {
        head: WHOLE,
        rest: "apiVersion: ringway.dev/v1alpha1
kind: Ingress
metadata: { name: cart }
spec: {}
",
        said: &[
            "2:7 kind: `Ingress` is not known => the kinds are `Gateway`, `Link`, `Listener`, `MeshService`, `Sidecar` and `TrafficPolicy`",
        ],
    },
    Case {
        head: WHOLE,
        rest: "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: cart }
spec: {}
",
        said: &[
            "2:7 kind: `HTTPRoute` is not available yet => available now: `Gateway`, `Link`, `Listener`, `MeshService`, `Sidecar` and `TrafficPolicy`",
        ],
    },
    Case {
        head: WHOLE,
        rest: "apiVersion: ringway.dev/v1
kind: Link
metadata: { name: east }
spec: { anything: 1 }
",
        said: &[
            "1:13 Link: apiVersion: `ringway.dev/v1` is not known => write `apiVersion: ringway.dev/v1alpha1`",
        ],
    },
    Case {
        head: WHOLE,
        rest: "apiVersion: ringway.dev/v1alpha1
kind: Link
metadata: {}
spec: { addresses: [east] }
",
        said: &[
            "3:11 Link: metadata.name is missing => add `name: ...`",
            "4:21 Link: spec.addresses: `east` is no `host:port` => write `east:PORT`",
        ],
    },
    Case {
        head: WHOLE,
        rest: "apiVersion: ringway.dev/v1alpha1
kind: Link
metadata: { name: East_1 }
spec: {}
",
        said: &[
            "3:19 Link: metadata.name: `East_1` is no name => such as `east-1`: write 1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends (RFC 1123)",
        ],
    },
    Case {
        head: WHOLE,
        rest: "apiVersion: ringway.dev/v1alpha1
kind: Link
metadata: { name: [east] }
spec: {}
",
        said: &["3:19 expected a single value => neither a list nor fields belong here"],
    },
    Case {
        head: WHOLE,
        rest: "apiVersion: ringway.dev/v1alpha1
kind: Link
metadata: { name: east, labels: { a: b } }
spec: {}
",
        said: &[
            "3:25 Link default/east: unknown field `labels` => the fields here are `name` and `namespace`",
        ],
    },
    Case {
        head: WHOLE,
        rest: "apiVersion: ringway.dev/v1alpha1
kind: Link
metadata: { name: east, name: west }
spec: {}
",
        said: &["3:25 `name` stands here twice => keep one of the two"],
    },
    Case {
        head: LINK_HEAD,
        rest: "",
        said: &[
            "3:19 Link default/east: spec is missing => add `spec: { addresses: [gw.east.example:7443] }`",
        ],
    },
    Case {
        head: LINK_HEAD,
        rest: "spec: []
",
        said: &["4:7 Link default/east: expected fields (`name: value`) => write `{}` where there are none"],
    },
    Case {
        head: LINK_HEAD,
        rest: "addresses: []
",
        said: &[
            "4:1 Link default/east: unknown field `addresses` => the fields of the object itself stand under `spec`",
        ],
    },
    Case {
        head: LINK_HEAD,
        rest: "spec: { adresses: [] }
",
        said: &["4:9 Link default/east: unknown field `adresses` => did you mean `addresses`?"],
    },
    Case {
        head: LINK_HEAD,
        rest: "spec: {
",
        said: &["4:7 unclosed bracket '{'"],
    },
    Case {
        head: LINK_HEAD,
        rest: "spec: !secret {}
",
        said: &["4:15 unsupported tag `!secret`"],
    },
    Case {
        head: LINK_HEAD,
        rest: "spec:\n\taddresses: []\n",
        said: &["5:2 tabs disallowed within this context (block indentation) => indent with spaces"],
    },
    Case {
        head: LINK_HEAD,
        rest: "spec: { addresses: gw:1 }
",
        said: &["4:20 Link default/east: expected a list => write `[...]`, or lines that start with `- `"],
    },
    Case {
        head: LINK_HEAD,
        rest: "spec: { import: [{ union: yes }] }
",
        said: &["4:27 Link default/east: expected a boolean => write `true` or `false`"],
    },
    Case {
        head: SERVICE_HEAD,
        rest: "spec:
  export: { to: [*] }
",
        said: &[
            r#"5:18 no name follows this `*` or `&` => a text that starts with `*` or `&` needs quotes, such as `"*"`"#,
        ],
    },
    Case {
        head: SERVICE_HEAD,
        rest: "spec:
  export: { to: [*east] }
",
        said: &[
            r#"5:18 this alias names no anchor => a text that starts with `*` needs quotes, such as `"*"`"#,
        ],
    },
    Case {
        head: SERVICE_HEAD,
        rest: "spec:
  helathCheck: {}
",
        said: &["5:3 MeshService shop/cart: unknown field `helathCheck` => did you mean `healthCheck`?"],
    },
    Case {
        head: SERVICE_HEAD,
        rest: "spec:
  replicas: 3
",
        said: &[
            "5:3 MeshService shop/cart: unknown field `replicas` => the fields here are `ports`, `endpoints`, `healthCheck`, `export` and `registration`",
        ],
    },
    Case {
        head: SERVICE_HEAD,
        rest: "spec:
  ports: [{ name: web, port: [80] }]
",
        said: &["5:24 MeshService shop/cart: expected a number, found sequence"],
    },
    Case {
        head: WHOLE,
        rest: "a: &a [1,1,1,1,1,1,1,1,1,1]
b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]
c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]
d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]
e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]
f: [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]
",
        said: &[
            "3:32 this document is nested too deeply, or too large once its aliases are expanded => at most 32 levels and 1000 aliases are allowed, which repeat no more than stands there",
        ],
    },
    Case {
        head: WHOLE,
        rest: "a: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]
",
        said: &[
            "1:35 this document is nested too deeply, or too large once its aliases are expanded => at most 32 levels and 1000 aliases are allowed, which repeat no more than stands there",
        ],
    },
];
