//! What is a request, and what is refused before it is one.

use bytes::Bytes;
use http::header::HOST;
use http::{Method, Request, StatusCode, Uri, Version};

use crate::framing::{self, BadFraming, Framing};
use crate::head::{self, HeadError};

/// Why a request is refused before it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its head.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// Its end is not known.
    #[error(transparent)]
    Framing(#[from] BadFraming),
    /// No target of the forms that RFC 9112, section 3.2 has for its method.
    #[error("the request target is malformed")]
    Target,
    /// None, or more than one (RFC 9112, section 3.2).
    #[error("the request has {0} Host field")]
    Host(&'static str),
    /// The head was not whole in time.
    #[error("the head did not come in time")]
    TooSlow,
}

impl Refused {
    /// The status that says so.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Head(HeadError::TooLarge(_) | HeadError::TooManyFields(_)) => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Self::Head(HeadError::Version) => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Framing(BadFraming::Coding) => StatusCode::NOT_IMPLEMENTED,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Head(HeadError::Malformed(_)) | Self::Framing(_) | Self::Target | Self::Host(_) => {
                StatusCode::BAD_REQUEST
            }
        }
    }
}

/// A request from its head.
pub(super) fn judge(head: head::Request) -> Result<(Request<()>, Framing), Refused> {
    let framing = framing::of_request(head.version, &head.headers)?;
    let hosts = head.headers.get_all(HOST).iter().count();
    if hosts > 1 {
        return Err(Refused::Host("more than one"));
    }
    if hosts == 0 && head.version == Version::HTTP_11 {
        return Err(Refused::Host("no"));
    }
    let mut request = Request::new(());
    *request.uri_mut() = target(&head.method, head.target).ok_or(Refused::Target)?;
    *request.method_mut() = head.method;
    *request.version_mut() = head.version;
    *request.headers_mut() = head.headers;
    Ok((request, framing))
}

/// A request target in one of the four forms (RFC 9112, section 3.2).
fn target(method: &Method, target: Bytes) -> Option<Uri> {
    // No form has a fragment, and whoever cuts it off asks for something else than was meant.
    if target.contains(&b'#') {
        return None;
    }
    let connect = *method == Method::CONNECT;
    let any = *method == Method::OPTIONS && target[..] == *b"*";
    let origin = target.first() == Some(&b'/');
    let uri = Uri::from_maybe_shared(target).ok()?;
    let fits = match (connect, uri.scheme(), uri.authority()) {
        (true, None, Some(_)) => uri.path_and_query().is_none(),
        (false, Some(_), Some(_)) => true,
        (false, None, None) => origin || any,
        _ => false,
    };
    fits.then_some(uri)
}
