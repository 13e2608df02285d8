//! Answering: where a connection answers its requests, one after the other.
//!
//! ```text
//! request ─▶ the connection's place on the heap ─┬─▶ answer: the place is kept for the next
//!                                                ├─▶ stream: it goes, for a stream lasts
//!                                                └─▶ later: it goes; what is waited for needs less
//! ```
//!
//! What answers a request takes a few KiB. To have them in each connection would cost as
//! much for the thousands that wait for an event; to ask for them with each request, a
//! tenth of the processor's time. So a connection keeps them while requests come and go.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use http_body_util::Either;
use hyper::Response;

use super::answer::Body;

/// An answer that is waited for, and needs nothing of what led to it.
pub(in crate::api) type Later = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// What comes of a request.
pub(in crate::api) enum Said {
    /// An answer, which may be a stream that goes on.
    Now(Response<Body>),
    /// One that may be long in coming.
    Later(Later),
}

/// Where something is on its way to an answer, or nothing is.
type Place<F> = Pin<Box<Option<F>>>;

/// The place that a connection keeps.
pub(in crate::api) struct KeptPlace<F> {
    kept: Arc<Mutex<Option<Place<F>>>>,
}

impl<F> Default for KeptPlace<F> {
    fn default() -> Self {
        Self { kept: Arc::default() }
    }
}

impl<F: Future<Output = Said>> KeptPlace<F> {
    /// Begins to answer.
    pub(in crate::api) fn answer(&self, answer: F) -> Answering<F> {
        let kept = self.lock().take();
        let mut place = kept.unwrap_or_else(|| Box::pin(None));
        place.set(Some(answer));
        let kept = Arc::clone(&self.kept);
        Answering { back: Self { kept }, place: Some(place), later: None }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Place<F>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is being answered.
pub(in crate::api) struct Answering<F> {
    back: KeptPlace<F>,
    /// What answers it, until it has said something.
    place: Option<Place<F>>,
    /// What is waited for.
    later: Option<Later>,
}

impl<F: Future<Output = Said>> Answering<F> {
    /// Lets what answers the request say something.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<Response<Body>>> {
        let Some(place) = &mut self.place else { return Poll::Ready(None) };
        let answer = place.as_mut().as_pin_mut().expect("it is on its way until it has spoken");
        let said = ready!(answer.poll(cx));
        let mut place = self.place.take().expect("it was there");
        place.set(None);
        match said {
            Said::Now(response) => {
                if matches!(response.body(), Either::Left(_)) {
                    *self.back.lock() = Some(place);
                }
                Poll::Ready(Some(response))
            }
            Said::Later(later) => {
                self.later = Some(later);
                Poll::Ready(None)
            }
        }
    }
}

impl<F: Future<Output = Said>> Future for Answering<F> {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(response) = ready!(self.poll_answer(cx)) {
            return Poll::Ready(Ok(response));
        }
        let later = self.later.as_mut().expect("it has spoken, and waits for something");
        later.as_mut().poll(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use bytes::Bytes;
    use futures_util::{FutureExt as _, stream};
    use http_body_util::{Full, StreamBody};

    use super::*;
    use crate::api::http::answer::Pieces;

    fn short() -> Response<Body> {
        Response::new(Either::Left(Full::from(Bytes::from_static(b"short\n"))))
    }

    fn is_kept<F: Future<Output = Said>>(place: &KeptPlace<F>) -> bool {
        place.lock().is_some()
    }

    #[test]
    fn place_is_kept_for_the_next_request_unless_somebody_waits() {
        let place = KeptPlace::default();
        let answer = |said| place.answer(ready(said)).now_or_never().is_some();
        assert!(!is_kept(&place) && answer(Said::Now(short())) && is_kept(&place));
        assert!(answer(Said::Now(short())) && is_kept(&place), "it is used again");
        let pieces: Pieces = Box::pin(stream::empty());
        let endless = Response::new(Either::Right(StreamBody::new(pieces)));
        assert!(answer(Said::Now(endless)) && !is_kept(&place), "a stream has begun");
        assert!(answer(Said::Later(Box::pin(ready(short())))) && !is_kept(&place));
        let mut waiting = place.answer(ready(Said::Later(Box::pin(pending()))));
        assert!((&mut waiting).now_or_never().is_none());
        assert!(waiting.place.is_none() && !is_kept(&place), "what is waited for needs no place");
    }

    #[test]
    fn place_of_a_request_that_is_given_up_goes() {
        let place = KeptPlace::default();
        assert!(place.answer(ready(Said::Now(short()))).now_or_never().is_some());
        drop(place.answer(ready(Said::Now(short()))));
        assert!(!is_kept(&place));
    }
}
