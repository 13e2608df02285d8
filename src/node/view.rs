//! Views: the keys as they were at one index, for as long as somebody reads them.
//!
//! A view is a copy of the tree, which is O(1): it shares all that has not changed since.
//! While it is there, each part of the tree that a write changes is copied once, so that
//! one which lives for long may come to cost as much as the tree itself. Hence there are
//! few lasting views, and whoever has one gives it back soon (`api/v1/large.rs`). A view
//! that is dropped before anybody is waited for is *brief*, and not counted.
//!
//! What is told of the past has places of its own, so that nobody who looks back has to
//! wait for those who list what is there now.
//!
//! It is not the published state: who holds that makes each write copy more than the tree.

use std::sync::Arc;
use std::time::Duration;

use etcd_log::{LogId, LogTime};
use etcd_projections::{KeyTree, Position, State};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Node;
use super::error::Unavailable;
use crate::state::published::Published;

/// How many lasting views there are at a time; and how many answers from the past.
const PLACES: usize = 16;

/// The keys as they were at one index.
#[derive(Debug)]
pub struct View {
    /// What every key holds.
    pub tree: KeyTree,
    /// How far the state had come.
    pub position: Position,
    /// The last entry applied; none before the first.
    pub applied: Option<LogId>,
    /// The time at which it is looked at.
    pub time: LogTime,
    /// Of a lasting one.
    place: Option<Place>,
}

/// A place for what is large and lasts: whoever has it may hold that, until he drops it.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

impl View {
    /// Looks at a state that belongs to nobody who writes: it is in nobody's way.
    pub fn of(state: &State) -> Self {
        let (tree, position) = (state.tree().clone(), state.position());
        Self { tree, position, applied: None, time: position.time, place: None }
    }

    /// Returns the view as it was at a position, in the same place: then that is the time
    /// at which it is looked at.
    pub(super) fn taken_back(self, tree: KeyTree, position: Position) -> Self {
        Self { tree, position, time: position.time, ..self }
    }

    /// Lets go of the keys, and keeps the place.
    pub(super) fn into_place(self) -> Option<Place> {
        self.place
    }
}

/// The places for what lasts.
#[derive(Debug)]
pub(super) struct Places {
    /// For lasting views of the newest state.
    now: Arc<Semaphore>,
    /// For what is read of the past.
    past: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        let places = || Arc::new(Semaphore::new(PLACES));
        Self { now: places(), past: places() }
    }
}

impl Node {
    /// Returns a brief view of a state.
    pub fn brief_view(&self, published: &Published) -> View {
        self.view_of(published, None)
    }

    /// Returns a lasting view of the newest state, once there is a place for it: whoever
    /// had a brief view before sees what was there then, or later.
    ///
    /// # Errors
    ///
    /// If there is no place within `limit`.
    pub async fn lasting_view(&self, limit: Duration) -> Result<View, Unavailable> {
        self.view_in(&self.inner.views.now, limit).await
    }

    /// Returns the same, in one of the places for the past.
    pub(super) async fn view_for_past(&self, limit: Duration) -> Result<View, Unavailable> {
        self.view_in(&self.inner.views.past, limit).await
    }

    async fn view_in(&self, places: &Arc<Semaphore>, limit: Duration) -> Result<View, Unavailable> {
        let permit = tokio::time::timeout(limit, Arc::clone(places).acquire_owned()).await;
        let permit = permit.ok().and_then(Result::ok).ok_or(Unavailable::Busy)?;
        Ok(self.view_of(&self.now(), Some(Place { _permit: permit })))
    }

    fn view_of(&self, published: &Published, place: Option<Place>) -> View {
        let Published { state, applied } = published;
        View {
            tree: state.tree().clone(),
            position: state.position(),
            applied: *applied,
            time: self.time(published),
            place,
        }
    }
}
